"""Names beside figures, in Brazilian Portuguese: what needs no learning, tasks, metrics, verdicts of formulas."""

from __future__ import annotations

_SAME = {
    "minute": "mesmo minuto",
    "hour": "mesma hora",
    "day": "mesmo dia",
    "week": "mesma semana",
    "month": "mesmo mês",
    "quarter": "mesmo trimestre",
    "time": "mesmo momento",
}
_AGO = {"yesterday": "ontem", "last week": "semana passada", "last year": "ano passado"}

BASELINES = {
    "majority": "a classe mais comum",
    "naive Bayes on words": "Bayes ingênuo sobre palavras",
    "last value": "último valor",
    "ridge regression": "regressão ridge",
    "unigram": "unigrama",
    "5-gram": "5-grama",
    "5-gram Kneser-Ney": "5-grama de Kneser-Ney",
    "joint 1-gram": "1-grama conjunto",
    "xz": "xz",
    "the English text": "o texto em inglês",
    "the source text": "o texto de origem",
    "likest training verse": "versículo de treino mais parecido",
    "nearest centroid": "centroide mais próximo",
    "constant": "uma constante",
    "guess": "um palpite",
    "without a look ahead": "sem olhar adiante",
    "outer operator": "operador de fora",
    **{f"same {step} {ago}": f"{same}, {then}" for step, same in _SAME.items() for ago, then in _AGO.items()},
}

TITLES = {
    "the school subject of a learning objective of the Brazilian curriculum": (
        "a disciplina de um objetivo de aprendizagem do currículo brasileiro"
    ),
    "which digit a handwritten one of 8 × 8 pixels is": "qual algarismo é um manuscrito de 8 × 8 pixels",
    "which of ten kinds of clothes a picture of 28 × 28 pixels shows": (
        "qual de dez tipos de roupa uma imagem de 28 × 28 pixels mostra"
    ),
    "whether a Brazilian tweet is toxic": "se um tuíte brasileiro é tóxico",
    "the next 24 hours of a household's power from the last 168": (
        "as próximas 24 horas da potência de uma casa a partir das últimas 168"
    ),
    "the phonemes of a Portuguese word": "os fonemas de uma palavra portuguesa",
    "the next token of the Bible in Portuguese": "o próximo token da Bíblia em português",
    "the next token of the Brazilian curriculum": "o próximo token do currículo brasileiro",
    "the next token of Machado de Assis": "o próximo token de Machado de Assis",
    "hidden words of the Bible in Portuguese": "palavras escondidas da Bíblia em português",
    "hidden words of the Brazilian curriculum": "palavras escondidas do currículo brasileiro",
    "Add the two marked numbers of 100": "Some os dois números marcados entre 100",
    "Foretell the second half of 0w0w": "Preveja a segunda metade de 0w0w",
    "Eight functions, one a region of the plane": "Oito funções, uma por região do plano",
    "Recall what followed the key earlier in 64 tokens": "Lembre o que veio depois da chave, antes, em 64 tokens",
    "Compute nested lists of MAX, MIN, MED and SUM MOD 10": "Calcule listas aninhadas de MAX, MIN, MED e SUM MOD 10",
    "Answer a question from one token far away in 1,000": "Responda a partir de um token distante entre 1.000",
    "Tag each symbol: is the next one larger?": "Marque cada símbolo: o próximo é maior?",
    "Write strings of 10 to 20 letters backwards": "Escreva de trás para a frente sequências de 10 a 20 letras",
    "Copy 8 letters out of 64 steps of noise": "Copie 8 letras entre 64 passos de ruído",
    "an English Bible verse into Portuguese": "um versículo da Bíblia, do inglês ao português",
}

OWN_TITLES = {
    "the next values of {} from its last ones": "os próximos valores de {} a partir dos últimos",
    "the label of a text of {}": "o rótulo de um texto de {}",
    "a text of {} into its translation": "um texto de {} para a sua tradução",
    "which folder of {} a picture belongs to": "a que pasta de {} pertence uma imagem",
}

FIGURE_WORDS = {
    **BASELINES,
    **TITLES,
    # Verdicts of formulas
    "right": "certa",
    "incomplete": "incompleta",
    "wrong": "errada",
    "seed document and heading": "documento-semente e título",
    "verdict": "veredito",
    "default": "padrão",
    "where": "onde",
    "in words": "em palavras",
    "as written": "como escrita",
    "none": "nenhum",
    "prompts": "textos",
    "requests": "pedidos",
    "this model is served by torch": "este modelo é servido pelo torch",
    "off": "desligado",
    "accuracy": "acurácia",
    "macro-F1": "macro-F1",
    "exact match": "acerto exato",
    "bits per byte": "bits por byte",
    "mean squared error": "erro quadrático médio",
    "nats per masked piece": "nats por pedaço escondido",
}

FIGURE_LINES = {
    **OWN_TITLES,
    "{} ms ({} to {} ms)": "{} ms ({} a {} ms)",
    "ONNX: {}": "ONNX: {}",
    "ONNX: {} MiB": "ONNX: {} MiB",
    "{} s": "{} s",
}

FIGURE_SENTENCES = {
    "{} holds a {}: only a {} has a decode step to compile. For other models use `oliveira export`.": (
        "{} contém um {}: só um {} tem um passo de decodificação a compilar. Para outros modelos use `oliveira export`."
    ),
    "threads = {}, rounds = {}, streams = {}: each must be at least 1.": (
        "threads = {}, rounds = {}, streams = {}: cada um deve ser pelo menos 1."
    ),
    "max_loss = {} is measured on held-out text, and {} tokens are too few: give more than {} tokens (--text FILE), "
    "or max_loss = 0.": (
        "max_loss = {} se mede em texto separado, e {} tokens são poucos: dê mais de {} tokens (--text ARQUIVO), ou "
        "max_loss = 0."
    ),
    "{}: logits differ by {}, more than {}. It is refused.": ("{}: os logits diferem em {}, mais que {}. É recusado."),
}
