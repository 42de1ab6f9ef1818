from .folder import export_model as export_model
from .folder import trim_vocabulary as trim_vocabulary
from .gguf import write_gguf as write_gguf
