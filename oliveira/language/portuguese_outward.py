"""Portuguese of what leaves a home in the forms of other programs, and comes back from them."""

from __future__ import annotations

OUTWARD_HELP = {
    "Writes a trained run as ONNX beside its weights, or a model of text in the forms of other programs, checked.": (
        "Escreve um treino como ONNX ao lado dos pesos, ou um modelo de texto na forma de outros programas, conferido."
    ),
    "TASK/MODEL or its folder; with --to also champion, or NAME.": (
        "TAREFA/MODELO ou a pasta dele; com --to também champion, ou NOME."
    ),
    "hf for transformers, gguf for llama.cpp; peft: an adapter of the champion, by its name.": (
        "hf para o transformers, gguf para o llama.cpp; peft: um adaptador do campeão, pelo nome."
    ),
    "Folder (hf, peft) or file (gguf) that is made.": "Pasta (hf, peft) ou arquivo (gguf) que é criado.",
    "LoRA adapters of a home: list, show, add, remove.": (
        "Adaptadores LoRA de uma pasta: listar, mostrar, trazer, remover."
    ),
    "Takes over an adapter that peft has trained on the champion's weights.": (
        "Traz um adaptador que o peft treinou sobre os pesos do campeão."
    ),
    "Of peft: adapter_config.json and adapter_model.safetensors.": (
        "Do peft: adapter_config.json e adapter_model.safetensors."
    ),
}

OUTWARD_SENTENCES = {
    "--to {} needs --output: where it is written.": "--to {} precisa de --output: onde é escrito.",
    "--output is of --to hf, gguf and peft: a graph stays beside its weights. Leave it out.": (
        "--output é de --to hf, gguf e peft: um grafo fica ao lado dos pesos. Deixe de fora."
    ),
    "weights of {} are written as float32, with what they have lost": (
        "pesos de {} são escritos como float32, com o que já perderam"
    ),
    "llama.cpp cuts words as {} does: some texts become other tokens than here": (
        "o llama.cpp corta palavras como {}: alguns textos viram outros tokens que aqui"
    ),
    "artifact {} serves a task: peft's folders are of models of text.": (
        "o artefato {} serve uma tarefa: as pastas do peft são de modelos de texto."
    ),
    "adapter {}: rank {}, on {}": "adaptador {}: posto {}, em {}",
}
