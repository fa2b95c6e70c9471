"""Portuguese of homes with several lives: what is asked, told and refused."""

from __future__ import annotations

LIFE_HELP = {
    "Every life of the home is started; the flags are for one.": (
        "Todas as vidas da pasta são iniciadas; as opções valem para uma."
    ),
    "Of several in one home, served by this name; a new name adds one.": (
        "De várias numa pasta, servida com este nome; um nome novo acrescenta uma."
    ),
    "Of a home with several lives: the one that is meant.": "De uma pasta com várias vidas: a que se quer.",
    "Shows each life of the home, and of one its stages, what is served and what waits.": (
        "Mostra cada vida da pasta, e de uma as etapas, o que é servido e o que espera."
    ),
    "Name of a life or an adapter; else the served model itself.": (
        "Nome de uma vida ou de um adaptador; senão, o próprio modelo servido."
    ),
}

LIFE_SENTENCES = {
    "--life {} is not in --home {}. Its lives: {}.": "--life {} não está em --home {}. As vidas dela: {}.",
    "--home {} has several lives: {}. Name one with --life.": "--home {} tem várias vidas: {}. Diga qual com --life.",
    "--life {} is not a name. Use small letters, digits and '-', at most 32.": (
        "--life {} não é um nome. Use letras minúsculas, algarismos e '-', no máximo 32."
    ),
    "--life {} means a model of another life. Choose another name.": (
        "--life {} quer dizer um modelo de outra vida. Escolha outro nome."
    ),
    "--life {} is taken by an adapter of the life {}. Choose another name.": (
        "--life {} já é o nome de um adaptador da vida {}. Escolha outro nome."
    ),
    "name {} is a life's of {}. Choose another name for the adapter.": (
        "o nome {} é o de uma vida de {}. Escolha outro para o adaptador."
    ),
    "name {} is taken by an adapter of the life {}. Choose another.": (
        "o nome {} já é o de um adaptador da vida {}. Escolha outro."
    ),
    "{} is of the whole home: set it with --life {}, not with --life {}.": (
        "{} é da pasta toda: dê-o com --life {}, não com --life {}."
    ),
    "home {} lives with another task ({}), not {}. --life NAME adds a life beside it, served by that name.": (
        "a pasta {} vive com outra tarefa ({}), não {}. --life NOME acrescenta uma vida ao lado, servida com esse nome."
    ),
    "life {}: {}": "vida {}: {}",
    "life {} is not watched until the next start: {}": "a vida {} não é vigiada até o próximo início: {}",
}

LIFE_LINES = {
    "waits for the life {}, which learns.": "espera a vida {}, que está aprendendo.",
    "waits for the life {}, which learns": "espera a vida {}, que está aprendendo",
    "{} for the life {}": "{} a vida {}",
    "at its stage {}": "na etapa {}",
    "model {} needs about {} MiB, more than serve.memory = {}: it is served alone. "
    "Raise serve.memory, or compress the model.": (
        "o modelo {} precisa de uns {} MiB, mais que serve.memory = {}: é servido sozinho. "
        "Aumente serve.memory, ou comprima o modelo."
    ),
}

LIFE_WORDS = {
    "life": "vida",
    "task": "tarefa",
    "waits": "espera",
    "served": "servida",
    "asleep": "dormindo",
    "damaged": "danificada",
}
