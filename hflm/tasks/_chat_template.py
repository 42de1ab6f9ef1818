"""The chat template of a fine-tuned model, so that chat servers can prompt it.

A model that was trained on conversations (kind `chat`) keeps its tokenizer's template, or has DEFAULT_CHAT_TEMPLATE. That
of other tasks is made from their prompts:

    messages                                       prompt
    user "a stirring film"                         the only task's prompt: "Review: a stirring film\\nSentiment:"
    system "sentiment", user "a stirring film"     of several tasks, the named one's: the same
    user "The tower is tall.\\nHow tall is it?"     two columns: "The tower is tall.\\nQuestion: How ...
    user "Review: a stirring film\\nSentiment:"     a prompt as in training: itself
    user "Once upon a time"                        none of several tasks is named: the text itself

Earlier turns come first, as solved examples do in a benchmark: prompt, one space, answer, a blank line. Other words
of a system message are kept as text too.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hflm.tasks._prompts import prompt_segments

if TYPE_CHECKING:
    from hflm.recipe import Task

# Of a prompt with n columns, the message's last n - 1 lines are the last columns, and what precedes them is the first.
TEMPLATE = """\
{%- set prompts = PROMPTS -%}
{%- set chosen = namespace(task=ONLY, begun=false) -%}
{%- for message in messages -%}
{%- set text = (message.content or "") | trim -%}
{%- if message.role == "system" and text in prompts -%}
{%- set chosen.task = text -%}
{%- elif message.role == "assistant" -%}
{{- " " + text -}}
{%- elif text -%}
{%- if chosen.begun -%}{{- "\\n\\n" -}}{%- endif -%}
{%- set chosen.begun = true -%}
{%- set pieces = prompts[chosen.task] if chosen.task in prompts and message.role == "user" else ["", ""] -%}
{%- set parts = text.rsplit("\\n", pieces | length - 2) -%}
{%- set is_prompt = text.startswith(pieces[0]) and text.endswith(pieces[-1]) and pieces | join -%}
{%- if is_prompt or parts | length != pieces | length - 1 -%}
{{- text -}}
{%- else -%}
{%- for part in parts -%}{{- pieces[loop.index0] + part | trim -}}{%- endfor -%}
{{- pieces[-1] -}}
{%- endif -%}
{%- endif -%}
{%- endfor -%}
"""


# Of words alone: a tokenizer without a chat template has no tokens for roles. The end of text ends the assistant's turn.
DEFAULT_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if not loop.first -%}{{- "\\n" -}}{%- endif -%}
{{- message.role | capitalize + ": " + message.content | trim -}}
{%- if message.role == "assistant" -%}{{- eos_token -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- "\\nAssistant:" -}}{%- endif -%}
"""


def chat_template(tasks: "Mapping[str, Task]") -> str:
    """The jinja chat template of a model that was trained on the named tasks.

    A prompt that does more than show its columns, or shows one twice, has no place for a message: such a task's
    messages are complete prompts.
    """
    prompts = {name: segments for name, task in tasks.items() if (segments := prompt_segments(task))}
    # JSON's text is jinja's too, but for escapes of characters beyond the first 65,536: they stay as they are.
    only = next(iter(prompts)) if len(tasks) == len(prompts) == 1 else None
    return TEMPLATE.replace("PROMPTS", json.dumps(prompts, ensure_ascii=False)).replace("ONLY", json.dumps(only or ""))
