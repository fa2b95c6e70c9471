"""Lives that begin with trained weights, in Portuguese."""

from __future__ import annotations

BASE_HELP = {
    "Trained weights to begin with: smollm2, a Hugging Face folder or a .gguf file.": (
        "Pesos treinados de onde começar: smollm2, uma pasta do Hugging Face ou um arquivo .gguf."
    ),
}

BASE_WORDS = {
    "bring_in": "trazer",
    "prompt": "começo",
    "before": "antes",
    "after": "depois",
    "trained from nothing": "treinado do nada",
    "one from nothing": "um do nada",
}

BASE_LINES = {
    "{}, {} of {}": "{}, {} de {}",
    "{}: {}, {} parameters, licence {}": "{}: {}, {} parâmetros, licença {}",
    "{}: {}. Licence: {}": "{}: {}. Licença: {}",
    "{} training tokens": "{} tokens de treino",
    "your text {} → {}, general text {} → {}": "seu texto {} → {}, texto geral {} → {}",
    "{} is gone: what began with it is served, watched and retrained. Put it back there": (
        "{} não está mais lá: o que começou com ele é servido, vigiado e retreinado. Ponha de volta"
    ),
    "{}; the base is served: {}": "{}; serve-se a base: {}",
    "scoring the base as it would be served": "medindo a base como seria servida",
    "scoring what was adapted as it would be served": "medindo o que foi adaptado como seria servido",
    "{}: {} MiB, {} bits per byte of the general text": "{}: {} MiB, {} bits por byte do texto geral",
}

BASE_SENTENCES = {
    "model.max_len = {}, the window in which a base learns, is above the {} tokens of these weights. Lower it.": (
        "model.max_len = {}, a janela em que uma base aprende, passa dos {} tokens destes pesos. Diminua."
    ),
    "model.max_len = {}, the window in which a base learns, is above base.context = {}. Lower it.": (
        "model.max_len = {}, a janela em que uma base aprende, passa de base.context = {}. Diminua."
    ),
    "base.name = {} is of a life of text, and task.name = {} is a task. Leave one out; `oliveira train` has "
    "start= for a task.": (
        "base.name = {} é de uma vida de texto, e task.name = {} é uma tarefa. Deixe um dos dois; "
        "`oliveira train` tem start= para uma tarefa."
    ),
    "the weights of {} do not fit their config. Remove that folder: it is made again.": (
        "os pesos de {} não correspondem à sua configuração. Remova a pasta: ela é refeita."
    ),
    "--base {} is neither there nor one of {}. Give one of these, a Hugging Face folder or a .gguf file.": (
        "--base {} não existe nem é um de {}. Dê um destes, uma pasta do Hugging Face ou um arquivo .gguf."
    ),
    "base.name = {} is not known. Use {}, or {}PLACE of your own.": (
        "base.name = {} não é conhecido. Use {}, ou {}LUGAR dos seus próprios pesos."
    ),
    "{} is gone: nothing can begin with its weights. Put it back there.": (
        "{} não está mais lá: nada pode começar com esses pesos. Ponha de volta."
    ),
    "{} holds no weights. Give a Hugging Face folder or a .gguf file.": (
        "{} não contém pesos. Dê uma pasta do Hugging Face ou um arquivo .gguf."
    ),
    "{} cannot be read ({}). Allow it (chmod u+r).": "{} não pode ser lido ({}). Permita (chmod u+r).",
    "home {} lives with another base ({}), not {}. --life NAME adds a life beside it, served by that name.": (
        "o home {} vive com outra base ({}), não {}. --life NOME põe ao lado uma vida, servida por esse nome."
    ),
    "the weights at {} are not those that home {} began with. Put those back, or begin another life with these: "
    "--life NAME --base PLACE.": (
        "os pesos em {} não são aqueles com que o home {} começou. Ponha aqueles de volta, ou comece outra vida com "
        "estes: --life NOME --base LUGAR."
    ),
}
