"""Every key of a recipe on one page of Markdown, from the JSON Schema: `hflm schema --page`."""

import json

PASSED = {  # where a section hands more keys on, as they are
    "ModelRecipe": "any key of `transformers.GPT2Config`, beside a `preset`",
    "Data": "any key of `datasets.load_dataset` and of its builder; for `toy`: `name`, `size`, `seed`",
}
OPTIONS = {
    "FinetuneRecipe.quantization": "keys of `transformers.BitsAndBytesConfig`",
    "PretrainRecipe.args": "keys of `transformers.TrainingArguments`",
    "FinetuneRecipe.args": "keys of `transformers.TrainingArguments`",
    "FinetuneRecipe.adapter": "`type: lora` and keys of `peft.LoraConfig`",
}
OPENING = """\
# Every key of a recipe

Made by `hflm schema --page` from the same schema that `hflm validate` and editors use. A key without a default may be
left out; **required** ones may not. Keys that are handed to a library keep its names and are checked too.
"""


def page(schema):
    """The page for a recipe's JSON Schema, as `hflm.recipe.schema.json_schema` makes it."""
    sections = schema["$defs"]
    mapping = schema["properties"]["tasks"]["additionalProperties"]["discriminator"]["mapping"]
    tasks = {kind: sections[reference.rsplit("/", 1)[-1]] for kind, reference in mapping.items()}
    places = {}
    _find("", schema, sections, places)
    for task in tasks.values():
        _find("tasks.NAME", task, sections, places)
    parts = [OPENING, _table("the recipe itself", schema, "Recipe", _own(schema))]
    for name, paths in places.items():
        title = ", ".join(f"`{path}`" for path in paths)
        parts.append(_table(title, sections[name], name, _own(sections[name])))
    for kinds, keys in _by_kinds(tasks).items():
        which = "of every kind" if len(kinds) == len(tasks) else f"of kind {', '.join(f'`{kind}`' for kind in kinds)}"
        parts.append(_table(f"`tasks.NAME` {which}", tasks[kinds[0]], "Task", keys))
    return "\n".join(parts)


def _find(path, section, sections, places):
    """Add to `places` where each section below `section` stands: {section: [paths]}, in the recipe's order."""
    for key, described in _own(section).items():
        for name in _references(described) if key != "tasks" else ():
            place = f"{path}.{key}".lstrip(".")
            known = places.setdefault(name, [])
            if place not in known:
                known.append(place)
                _find(place, sections[name], sections, places)


def _by_kinds(tasks):
    """Keys that say the same in several kinds of task: {kinds: {key: description}}, most kinds first."""
    kinds_of = {}
    for kind, task in tasks.items():
        for key, described in _own(task).items():
            if key != "kind":
                said = json.dumps([key, described, key in task.get("required", ())])
                kinds_of.setdefault(said, []).append(kind)
    groups = {}
    for said, kinds in sorted(kinds_of.items(), key=lambda pair: -len(pair[1])):
        key, described, _ = json.loads(said)
        groups.setdefault(tuple(kinds), {})[key] = described
    return groups


def _own(section):
    """The keys that are hflm's own: those of libraries have no description in the schema."""
    return {key: described for key, described in section["properties"].items() if "description" in described}


def _table(title, section, name, keys):
    lines = [f"## {title}", "", "| key | value | default | what it is |", "| --- | --- | --- | --- |"]
    for key, described in keys.items():
        value = OPTIONS.get(f"{name}.{key}") or _value(described)
        default = "**required**" if key in section.get("required", ()) else _default(described)
        lines.append(
            "| " + " | ".join([f"`{key}`", value, default, described["description"].replace("|", "\\|")]) + " |"
        )
    if name in PASSED:
        lines.append(f"| ... | | | {PASSED[name]} |")
    return "\n".join([*lines, ""])


def _references(described):
    """The names of the sections that a value may be."""
    if "$ref" in described:
        return [described["$ref"].rsplit("/", 1)[-1]]
    inside = [*described.get("anyOf", ()), *described.get("oneOf", ())]
    inside += [described["items"]] if "items" in described else []
    return list(dict.fromkeys(name for each in inside for name in _references(each)))


def _value(described):
    """A key's type in words: 'integer above 0', '`error` or `skip`', 'list of texts'."""
    if "$ref" in described or described.get("type") == "object" or "additionalProperties" in described:
        return "keys"
    if "const" in described:
        return f"`{described['const']}`"
    if "enum" in described:
        return " or ".join(f"`{value}`" for value in described["enum"])
    choices = [
        each for each in [*described.get("anyOf", ()), *described.get("oneOf", ())] if each.get("type") != "null"
    ]
    if choices:
        return " or ".join(dict.fromkeys(map(_value, choices)))
    if described["type"] == "array":
        return f"list of {_value(described['items'])}"
    word = {"string": "text", "number": "number", "integer": "integer", "boolean": "true or false"}[described["type"]]
    for key, between in (
        ("exclusiveMinimum", "above"),
        ("minimum", "from"),
        ("maximum", "up to"),
        ("exclusiveMaximum", "below"),
    ):
        if key in described:
            word += f" {between} {described[key]:,}"
    return word


def _default(described):
    default = described.get("default")
    if default in (None, {}, []) or isinstance(default, dict):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"
