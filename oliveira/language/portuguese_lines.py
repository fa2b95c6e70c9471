"""What the program tells while it works and shows of a life, in Brazilian Portuguese; {} is what it is about."""

from __future__ import annotations

from oliveira.language.portuguese_bases import BASE_LINES
from oliveira.language.portuguese_figures import FIGURE_LINES
from oliveira.language.portuguese_folders import FOLDER_LINES
from oliveira.language.portuguese_home import HOME_LINES
from oliveira.language.portuguese_lives import LIFE_LINES
from oliveira.language.portuguese_tables import TABLE_LINES
from oliveira.language.portuguese_tasks import TASK_LINES
from oliveira.language.portuguese_texts import TEXT_LINES

LINES = {
    # oliveira up
    "for a text of {} characters: {}": "para um texto de {} caracteres: {}",
    "{}: {}. Route: {}. Licence: {}": "{}: {}. Rota: {}. Licença: {}",
    "{} documents, {} characters ({} MB)": "{} documentos, {} caracteres ({} MB)",
    "{}: the stored result is missing or damaged; it is made again.": (
        "{}: o resultado guardado falta ou está danificado; é feito de novo."
    ),
    "scoring the whole validation text, and the peers on the same split": (
        "avaliando todo o texto de validação, e os comparados na mesma parte"
    ),
    "validation bits per byte: {}": "bits por byte na validação: {}",
    "{}: {} MiB, {} bits a weight, loss {} nats a token, {} ms a token": (
        "{}: {} MiB, {} bits por peso, perda {} nats por token, {} ms por token"
    ),
    "loss {}, {} {}/s": "perda {}, {} {}/s",
    "loss {}, {} tokens/s": "perda {}, {} tokens/s",
    "loss {}": "perda {}",
    "tokens of {}": "tokens de {}",
    "cleaning and comparing documents": "limpando e comparando documentos",
    "removing duplicates": "tirando duplicatas",
    "leakage check": "verificando vazamentos",
    "{} characters of {}, {} of {}": "{} caracteres de {}, {} de {}",
    "{} + {} training tokens": "{} + {} tokens de treino",
    "{} bits per byte": "{} bits por byte",
    "new domain {} → {}, base {} → {}": "domínio novo {} → {}, base {} → {}",
    "artifact {}": "artefato {}",
    "champion {}": "campeão {}",
    "{} false alarms in {} windows": "{} alarmes falsos em {} janelas",
    "Ctrl-C stops": "Ctrl-C para",
    "the champion {} is not served: {}. It is tried again; `oliveira history` lists others, `oliveira swap` "
    "and `oliveira rollback` serve one.": (
        "o campeão {} não está sendo servido: {}. Nova tentativa virá; `oliveira history` lista outros, `oliveira "
        "swap` e `oliveira rollback` servem um deles."
    ),
    # oliveira up --once
    "{} requests, the alarm is on": "{} pedidos, o alarme está ligado",
    "{} requests, no alarm yet": "{} pedidos, ainda sem alarme",
    "the alarm was raised, but {} requests brought {} characters and update.min_new_chars = {} waits for more. "
    "Make it smaller.": (
        "o alarme soou, mas {} pedidos trouxeram {} caracteres e update.min_new_chars = {} espera mais. Diminua-o."
    ),
    "no drift was seen after {} requests of {}: the model knows the base domain hardly better. Give train.steps more, "
    "or data.new another text.": (
        "nenhuma deriva em {} pedidos de {}: o modelo mal conhece melhor o domínio base. Aumente train.steps, ou dê "
        "outro texto a data.new."
    ),
    "{} requests of the known domain": "{} pedidos do domínio conhecido",
    "traffic of the new domain, until the monitor raises its alarm": "tráfego do domínio novo, até o alarme da vigia",
    "drift after {} requests; a challenger is trained on them, at low priority": (
        "deriva depois de {} pedidos; um desafiante é treinado com eles, com baixa prioridade"
    ),
    "swap under load": "troca sob carga",
    "nothing was promoted": "nada foi promovido",
    "detected after {} requests": "notada depois de {} pedidos",
    "{} failed of {} requests, {} s": "{} falharam de {} pedidos, {} s",
    "digest restored": "digest restaurado",
    "not restored": "não restaurado",
    "{} ms idle, {} ms while training": "{} ms em repouso, {} ms durante o treino",
    "{} MiB at most, all processes": "{} MiB no máximo, todos os processos",
    # status
    "running at {}": "em {}",
    "no retraining until `oliveira resume`": "nenhum retreino até `oliveira resume`",
    "step {} of {}, loss {}": "passo {} de {}, perda {}",
    "step {} of {}, loss {}, {} left": "passo {} de {}, perda {}, faltam {}",
    "since {} ({}), {}": "desde {} ({}), {}",
    "{} by {} since {}": "{} de {} desde {}",
    "{} by {} since {}, acted upon at the next start": "{} de {} desde {}, será feito no próximo início",
    "retraining, {}": "retreino, {}",
    "{} goes on; `oliveira status` shows how far it is, `oliveira history` what the gate will say.": (
        "{} continua; `oliveira status` mostra onde está, `oliveira history` o que o portão dirá."
    ),
    # history
    "first model of this world": "primeiro modelo deste mundo",
    "the world or its text changed": "o mundo ou seu texto mudou",
    "every number is within its threshold": "todo número está dentro de seu limite",
    "a score of the challenger is not a finite number": "um valor do desafiante não é um número finito",
    "the smoke prompts failed": "os textos de prova falharam",
    "gain {} bits per byte on the new domain is below {}": "o ganho de {} bits por byte no domínio novo é menor que {}",
    "forgetting {} of the base domain is above {}": "o esquecimento de {} do domínio base é maior que {}",
    "latency {} × the champion's ({} to {}) is above {}": "a latência de {} × a do campeão ({} a {}) é maior que {}",
    "{} by {}": "{} por {}",
    "{} by {} against the gate: {}": "{} por {} contra o portão: {}",
    "rejected by hand": "rejeitado à mão",
    # A world that cannot be
    "{} is not a field of a world ({}). Did you mean {}?": (
        "{raw[0]} não é um campo de um mundo ({raw[1]}). Seria {raw[2]}?"
    ),
    "{} = {} ({}) is not a section. Set one of its fields: {}.": (
        "{raw[0]} = {raw[1]} ({raw[2]}) não é uma seção. Dê um de seus campos: {raw[3]}."
    ),
    "{} = {} is refused ({}): {}. Correct that field.": (
        "{raw[0]} = {raw[1]} é recusado ({raw[2]}): {3}. Corrija esse campo."
    ),
    "environment variable {}": "variável de ambiente {}",
    # compile
    "{}: {} MB (the artifact's {} weights as fp32)": "{}: {} MB (os pesos {} do artefato em fp32)",
    "provider {}, largest difference of a logit {}": "provedor {}, maior diferença de um logit {}",
    "native is left out: {}": "native fica de fora: {}",
    "{}: {} nats a token at most": "{}: no máximo {} nats por token",
    "{}: {} nats a token at most, more than {}": "{}: no máximo {} nats por token, mais que {}",
    "ms a step, {} stream{}": "ms por passo, {} fluxo{}",
    # oliveira chat
    "({} of the oldest turns forgotten: the context is {} tokens)": (
        "({} das falas mais antigas esquecidas: o contexto é de {} tokens)"
    ),
    "/quit or Ctrl-D leaves, Ctrl-C stops an answer.": "/quit ou Ctrl-D sai, Ctrl-C para uma resposta.",
    **TABLE_LINES,
    **BASE_LINES,
    **TASK_LINES,
    **FOLDER_LINES,
    **FIGURE_LINES,
    **TEXT_LINES,
    **HOME_LINES,
    **LIFE_LINES,
}

TERMS = {
    "planned": "planejado",
    "ready": "pronto",
    "the loop": "o ciclo",
    "drift": "deriva",
    "gate": "portão",
    "swap": "troca",
    "rollback": "volta atrás",
    "memory": "memória",
    "p95 latency": "latência p95",
    "champion": "campeão",
    "previous": "anterior",
    "challenger": "desafiante",
    "adapters": "adaptadores",
    "program": "programa",
    "paused": "pausado",
    "training": "treino",
    "retraining": "retreino",
    "promoted": "promovido",
    "rejected": "rejeitado",
    "refused": "recusado",
    "rolled back": "revertido",
    "awaiting approval": "espera aprovação",
    "not judged": "não julgado",
    "approval": "aprovação",
    "rejection": "rejeição",
    "starting": "começando",
    "none yet; `oliveira adapt NAME FOLDER` makes one": "ainda nenhum; `oliveira adapt NOME PASTA` faz um",
    "deploy": "implantação",
    "approve": "aprovação",
    "reject": "rejeição",
    "promote": "promoção",
    "loop": "ciclo",
    "pipeline": "etapas",
    "adapted": "adaptado",
    "update": "atualizado",
    "by hand": "à mão",
    "score": "valor",
    "examples": "exemplos",
}

# What pydantic says of a field, and the sentences of a world, into which `world.py` puts where a value came from.
FOREIGN = {
    "data.validation + data.test = {} leaves less than half for training ({}). "
    "Make them smaller, for example {} each.": (
        "data.validation + data.test = {} deixa menos da metade para o treino ({}). Diminua-os, por exemplo {} cada um."
    ),
    "train.warmup_steps = {} is not below train.steps = {} ({}). Use fewer warm-up steps, for example {}.": (
        "train.warmup_steps = {} não é menor que train.steps = {} ({}). Use menos aquecimento, por exemplo {}."
    ),
    "compress.serve = {} is not among compress.methods = {} ({}). Add it there or serve fp32.": (
        "compress.serve = {} não está em compress.methods = {} ({}). Acrescente-o lá ou sirva fp32."
    ),
    "compress.serve = {} is of text, whose kernels alone read 4 bits ({}). Use int8 or fp32.": (
        "compress.serve = {} é de texto, pois só os seus kernels leem 4 bits ({}). Use int8 ou fp32."
    ),
    "update.method = full is of a task's model: text is retrained by LoRA ({}). Use lora or auto.": (
        "update.method = full é do modelo de uma tarefa: texto se retreina por LoRA ({}). Use lora ou auto."
    ),
    "adapt.targets = {} holds {}, which no layer of the model is called ({}). Use some of {}.": (
        "adapt.targets = {raw[0]} contém {raw[1]}, que não é nome de camada ({raw[2]}). Use alguns destes: {raw[3]}."
    ),
    "adapt.targets = {} holds gate, which model.feed_forward = {} does not have ({}). "
    "Use adapt.targets = {} or feed_forward = swiglu.": (
        "adapt.targets = {} contém gate, que model.feed_forward = {} não tem ({}). "
        "Use adapt.targets = {} ou feed_forward = swiglu."
    ),
    "model.n_heads = {} does not divide model.d_model = {} ({}). Use {} heads, or d_model = {} or {}.": (
        "model.n_heads = {} não divide model.d_model = {} ({}). Use {} cabeças, ou d_model = {} ou {}."
    ),
    "model.n_kv_heads = {} does not divide model.n_heads = {} ({}). Use 1, {} or another divisor.": (
        "model.n_kv_heads = {} não divide model.n_heads = {} ({}). Use 1, {} ou outro divisor."
    ),
    "String should match pattern {}": "não tem a forma {}",
    "Input should be a valid string, unable to parse raw data as a unicode string": "não é um texto Unicode",
    "Input should be {}": "deve ser {}",
    "Input should be greater than or equal to {}": "deve ser pelo menos {}",
    "Input should be less than or equal to {}": "deve ser no máximo {}",
    "Input should be greater than {}": "deve ser maior que {}",
    "Input should be less than {}": "deve ser menor que {}",
    "Input should be a finite number": "deve ser um número finito",
    "Input should be a valid integer, unable to parse string as an integer": "deve ser um número inteiro",
    "Input should be a valid integer, got a number with a fractional part": "deve ser um número inteiro",
    "Input should be a valid integer": "deve ser um número inteiro",
    "Input should be a valid number, unable to parse string as a number": "deve ser um número",
    "Input should be a valid number": "deve ser um número",
    "Input should be a valid boolean, unable to interpret input": "deve ser true ou false",
    "Input should be a valid boolean": "deve ser true ou false",
    "Input should be a valid string": "deve ser um texto",
    "Input should be a valid tuple": "deve ser uma lista",
    "Input should be a valid list": "deve ser uma lista",
    "Input should be {} or {}": "deve ser {} ou {}",
    "String should have at least {} character": "deve ter pelo menos {} caractere",
    "Unable to parse input string as an integer, exceeded maximum size": "é grande demais",
}
