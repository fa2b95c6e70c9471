"""Portuguese of lives of tasks: what `oliveira up --task` asks, tells and refuses."""

from __future__ import annotations

TASK_HELP = {
    "Serves a trained run with a key, as a life is served but without retraining; `oliveira up --task` is the whole.": (
        "Serve um treino com chave, como se serve uma vida mas sem retreino; `oliveira up --task` é a vida toda."
    ),
    "Takes your data to a model that is served, watched and retrained. Finished stages are reused.": (
        "Leva dos seus dados a um modelo servido, vigiado e retreinado. O que já terminou é reaproveitado."
    ),
    "A home goes on with the world it was made with; another is asked for, or set with --set.": (
        "Uma pasta continua com o mundo com que foi feita; outro é perguntado, ou dado com --set."
    ),
    "What is learnt instead of a text: a task of `oliveira list`, or a kind and --data.": (
        "O que se aprende em vez de um texto: uma tarefa de `oliveira list`, ou um tipo e --data."
    ),
    "int8 holds linear layers in a byte a weight: smaller, a little less exact.": (
        "int8 guarda as camadas lineares em um byte por peso: menor, um pouco menos exato."
    ),
    "Of the task; left out: one that suits it.": "Da tarefa; se faltar: um que sirva para ela.",
}

TASK_SENTENCES = {
    "requests[{}]: {}": "requests[{}]: {}",
    "--model {} goes with --task. Of a text life the model is set by --set model.d_model=….": (
        "--model {} vai com --task. Numa vida de texto o modelo se dá por --set model.d_model=…."
    ),
    "--task {} needs --data FILE, or the name of a task, for example forecast/power.": (
        "--task {} precisa de --data ARQUIVO, ou do nome de uma tarefa, por exemplo forecast/power."
    ),
    "no model of the catalogue fits {}. `oliveira list` shows what fits what.": (
        "nenhum modelo do catálogo serve para {}. `oliveira list` mostra o que serve para quê."
    ),
    "{} answers have had their truth told, fewer than update.min_truths = {}. "
    "Tell more with POST /v1/feedback, or lower it.": (
        "{} respostas tiveram a verdade contada, menos que update.min_truths = {}. "
        "Conte mais com POST /v1/feedback, ou diminua-o."
    ),
    "the data of {} are not those that the champion learnt from. Start `oliveira up` again to learn them anew.": (
        "os dados de {} não são aqueles com que o campeão aprendeu. Comece `oliveira up` de novo para aprendê-los."
    ),
    "{} shows no requests of its own. Use `oliveira up` without --once.": (
        "{} não mostra pedidos próprios. Use `oliveira up` sem --once."
    ),
    "no drift was seen after {} requests unlike those that were learnt. Make monitor.requests smaller, or "
    "give more data: too few held-out requests make no reference.": (
        "nenhuma deriva foi vista em {} pedidos diferentes dos aprendidos. Diminua monitor.requests, ou dê mais dados: "
        "pedidos separados de menos não fazem uma referência."
    ),
    "artifact {} answers {}, the champion of this home {}. Start `oliveira up` with that task in another --home.": (
        "o artefato {} responde a {raw[1]}, o campeão desta pasta a {raw[2]}. "
        "Comece `oliveira up` com essa tarefa em outro --home."
    ),
}

TASK_LINES = {
    "no drift is watched for: {}": "nenhuma deriva é vigiada: {}",
    "this task says nothing of its requests that drift could be seen by": (
        "esta tarefa nada diz dos pedidos por que se veja deriva"
    ),
    "false alarms are not counted: {}": "os alarmes falsos não são contados: {}",
    "drift is watched, false alarms are not counted": "a deriva é vigiada, os alarmes falsos não são contados",
    "{}: {} MB instead of {}, {} {} instead of {}{}, {} ms an answer instead of {}": (
        "{}: {} MB em vez de {}, {} {} em vez de {}{}, {} ms por resposta em vez de {}"
    ),
    "{}, which is slower": "{}, o que é mais lento",
    "{}; fp32 is served: {}": "{}; serve-se fp32: {}",
    "less than a twentieth is saved, as few of this model's weights are in linear layers": (
        "poupa-se menos de um vinte avos, pois poucos pesos deste modelo estão em camadas lineares"
    ),
    "{} is {} worse, more than gate.max_forgetting = {}": "{} fica {} pior, mais que gate.max_forgetting = {}",
    "no drift is watched": "nenhuma deriva é vigiada",
    "{} weights change the outputs of the run's own request by {} of the largest": (
        "pesos em {} mudam as saídas do pedido do próprio treino em {} da maior"
    ),
    "{} examples to learn from": "{} exemplos para aprender",
    "the error of the answers whose truth came back fell by {}, less than {}": (
        "o erro das respostas cuja verdade voltou caiu {}, menos que {}"
    ),
    "the error of the answers whose truth came back rose by {} and should fall by {}": (
        "o erro das respostas cuja verdade voltou subiu {} e devia cair {}"
    ),
    "{} on the known data is {} worse, more than {}": "{} nos dados conhecidos ficou {} pior, mais que {}",
}
