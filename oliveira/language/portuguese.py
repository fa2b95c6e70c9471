"""What the program says, in Brazilian Portuguese: help texts and single words; `portuguese_sentences.py` has the rest.

The keys are the English of the code. A test fails for a command, an option or a refusal of the command line that is
missing here, and for a key that the code no longer says.
"""

from __future__ import annotations

from oliveira.language.portuguese_bases import BASE_HELP, BASE_WORDS
from oliveira.language.portuguese_figures import FIGURE_WORDS
from oliveira.language.portuguese_folders import FOLDER_WORDS
from oliveira.language.portuguese_home import HOME_HELP, HOME_WORDS
from oliveira.language.portuguese_lives import LIFE_HELP, LIFE_WORDS
from oliveira.language.portuguese_outward import OUTWARD_HELP
from oliveira.language.portuguese_tables import TABLE_WORDS
from oliveira.language.portuguese_tasks import TASK_HELP
from oliveira.language.portuguese_texts import TEXT_HELP, TEXT_WORDS

HELP = {
    "A model's whole life in one program: collect, train, adapt, shrink, export, serve, watch, retrain.": (
        "A vida inteira de um modelo em um só programa: coletar, treinar, adaptar, comprimir, exportar, servir, "
        "vigiar, retreinar."
    ),
    "Print the version and stop.": "Mostra a versão e para.",
    "Language of help, errors and progress: en or pt-BR. Default: that of the system (LANG).": (
        "Língua da ajuda, dos erros e do progresso: en ou pt-BR. Padrão: a do sistema (LANG)."
    ),
    "Show this message and exit.": "Mostra esta mensagem e para.",
    "Install completion for the current shell.": "Instala a conclusão automática neste shell.",
    "Show completion for the current shell, to copy it or customize the installation.": (
        "Mostra a conclusão automática deste shell, para copiar ou mudar a instalação."
    ),
    # Shared
    "Folder of all state.": "Pasta de todo o estado.",
    "Print JSON instead of a table.": "Mostra JSON em vez de uma tabela.",
    "Only errors and the result.": "Só erros e o resultado.",
    "Only errors and the address.": "Só erros e o endereço.",
    "Same seed, same bits.": "Mesma semente, mesmos bits.",
    "0 = all cores.": "0 = todos os núcleos.",
    "Port; 0 = a free one.": "Porta; 0 = uma livre.",
    "Name of a model; `oliveira list` shows them.": "Nome de um modelo; `oliveira list` mostra todos.",
    "Fields of the model's config.": "Campos da configuração do modelo.",
    # up, status, history
    "Name of a world, or path of a .toml file; left out: the home's own, else default.": (
        "Nome de um mundo, ou caminho de um arquivo .toml; sem ele: o da própria pasta, ou default."
    ),
    "Port of the server; 0 = a free one.": "Porta do servidor; 0 = uma livre.",
    "section.field=value over the world; may be repeated.": "seção.campo=valor sobre o mundo; pode ser repetido.",
    "Live the whole loop once, with a witness, and stop.": "Vive o ciclo inteiro uma vez, com testemunha, e para.",
    "With --once: write the summary here.": "Com --once: escreve o resumo aqui.",
    "Print the world in force and stop.": "Mostra o mundo em vigor e para.",
    "The loop as a Mermaid graph with the state of each stage.": "O ciclo como grafo Mermaid, com o estado das etapas.",
    "Lists artifacts and every decision with its numbers, newest first.": (
        "Lista os artefatos e cada decisão com seus números, a mais nova primeiro."
    ),
    "Decisions shown.": "Decisões mostradas.",
    # The operator's verbs
    "Serves another artifact, verified first; the old one becomes `previous`.": (
        "Serve outro artefato, verificado antes; o antigo passa a `previous`."
    ),
    "Beginning of the artifact's digest.": "Começo do digest do artefato.",
    "Serves the previous artifact again; once more goes one further back.": (
        "Serve de novo o artefato anterior; mais uma vez volta mais um."
    ),
    "Kept with the decision.": "Guardado com a decisão.",
    "Promotes the challenger that waits for a person.": "Promove o desafiante que espera uma pessoa.",
    "Default: the challenger.": "Padrão: o desafiante.",
    "Why one that the gate rejected is taken all the same; kept with the decision.": (
        "Por que um que o portão rejeitou é aceito mesmo assim; guardado com a decisão."
    ),
    "Turns the challenger down.": "Recusa o desafiante.",
    "Trains a challenger on the live text now; the gate decides. Needs a running `oliveira up`. Ctrl-C ends it.": (
        "Treina agora um desafiante com o texto ao vivo; o portão decide. Precisa de um `oliveira up` em curso. Ctrl-C "
        "o termina."
    ),
    "No retraining until `oliveira resume`, and a running one ends; serving goes on.": (
        "Sem retreino até `oliveira resume`, e o que está em curso termina; o serviço continua."
    ),
    "Ends a pause.": "Termina uma pausa.",
    # chat
    "Talks to what is served: each line is answered as it comes. /quit or Ctrl-D leaves, Ctrl-C stops an answer.": (
        "Conversa com o que é servido: cada linha é respondida na hora. /quit ou Ctrl-D sai, Ctrl-C para uma resposta."
    ),
    "A full context forgets the oldest turns. Without a terminal each line of the input is a message.": (
        "Um contexto cheio esquece as falas mais antigas. Sem terminal, cada linha da entrada é uma mensagem."
    ),
    "Address of a server elsewhere, with --key; empty: the home's own.": (
        "Endereço de um servidor em outro lugar, com --key; vazio: o da própria pasta."
    ),
    "Key of the server; empty: a fresh one of the home's own.": "Chave do servidor; vazia: uma nova, da própria pasta.",
    "Longest answer, in tokens.": "A maior resposta, em tokens.",
    "0 = always the likeliest word; small models wander at 1.": (
        "0 = sempre a palavra mais provável; modelos pequenos se perdem com 1."
    ),
    "Writes prometheus.yml, its rules and a key file for the server of this home.": (
        "Escreve prometheus.yml, suas regras e um arquivo de chave para o servidor desta pasta."
    ),
    "Where the files go.": "Para onde vão os arquivos.",
    # list, sources, pages, reproduce
    "Lists the models of the catalogue with what they eat and give, and their best known result.": (
        "Lista os modelos do catálogo, o que aceitam e dão, e seu melhor resultado conhecido."
    ),
    "Only the models that fit this task; `?` lists the tasks.": (
        "Só os modelos que servem a esta tarefa; `?` lista as tarefas."
    ),
    "List the tasks instead; a shell may take the `?` for a file's name.": (
        "Lista as tarefas; um shell pode tomar o `?` por nome de arquivo."
    ),
    "Lists the texts that a world can name, with licence and size.": (
        "Lista os textos que um mundo pode nomear, com licença e tamanho."
    ),
    "Writes all text that quotes figures from the stored results: models, comparisons, quotes in the READMEs.": (
        "Escreve dos resultados guardados todo texto que cita números: modelos, comparações, citações nos READMEs."
    ),
    "Folder of the models' pages.": "Pasta das páginas dos modelos.",
    "Folder of the comparisons.": "Pasta das comparações.",
    "Texts that quote results.": "Textos que citam resultados.",
    "Runs a recipe again and shows its number beside the stored one; fails when they differ by more than the band.": (
        "Executa uma receita de novo e mostra o número ao lado do guardado; falha se diferem mais que a faixa."
    ),
    "Name of a recipe; `list` shows them, `all` runs them.": "Nome de uma receita; `list` mostra, `all` executa todas.",
    "Store the result in results/; needs a clean commit.": "Guarda o resultado em results/; precisa de commit limpo.",
    "Only results that are not of the code at hand.": "Só resultados que não são do código presente.",
    # inspect, explain
    "Shows a model's layers, parameters, FLOPs, memory and speed on this machine.": (
        "Mostra camadas, parâmetros, FLOPs, memória e velocidade de um modelo nesta máquina."
    ),
    "Sizes and example of this task; empty: an example's.": "Tamanhos e exemplo desta tarefa; vazio: os de um exemplo.",
    "Rows of the example.": "Linhas do exemplo.",
    "Shows one step of learning in numbers: prediction, loss, gradient, update, loss again.": (
        "Mostra um passo de aprendizado em números: previsão, perda, gradiente, correção, perda outra vez."
    ),
    "Where its examples come from; empty: the first that fits.": "De onde vêm os exemplos; vazio: a primeira que serve",
    "Name of a parameter; empty: the one with the steepest gradient.": (
        "Nome de um parâmetro; vazio: o de gradiente mais íngreme."
    ),
    "Learning rate; 0: the task's.": "Taxa de aprendizado; 0: a da tarefa.",
    "Examples.": "Exemplos.",
    "Same seed, same numbers.": "Mesma semente, mesmos números.",
    # train, compare, export, serve, predict
    "Trains a model on a task and measures it on the test split. Interrupted, the same command goes on.": (
        "Treina um modelo em uma tarefa e mede na partição de teste. Interrompido, o mesmo comando continua."
    ),
    "kind/source, as forecast/power (`oliveira list --tasks`), or kind/path:FILE.": (
        "tipo/fonte, como forecast/power (`oliveira list --tasks`), ou tipo/path:ARQUIVO."
    ),
    "Of your own table: the column to learn; empty: guessed, and said.": (
        "De uma tabela sua: a coluna a aprender; vazio: adivinhada, e dita."
    ),
    "Of your own table: the column of times; empty: the first one, or none.": (
        "De uma tabela sua: a coluna de tempos; vazio: a primeira, ou nenhuma."
    ),
    "Of your own table: the column of texts; empty: guessed.": (
        "De uma tabela sua: a coluna de textos; vazio: adivinhada."
    ),
    "Steps to forecast; 0: what suits the steps.": "Passos a prever; 0: o que convém aos passos.",
    "Steps to forecast from; 0: what suits the steps.": "Passos de que se prevê; 0: o que convém aos passos.",
    "Of your own series: columns that are inputs too, a,b.": "Da sua série: colunas que também entram, a,b.",
    "Of your own series: inputs that are known for the horizon too, a,b.": (
        "Da sua série: entradas que se conhecem também para o horizonte, a,b."
    ),
    "Of your own series: the column that tells several apart.": "Das suas séries: a coluna que as distingue.",
    "Of your own pairs: the column to write from.": "Dos seus pares: a coluna de que se escreve.",
    "Side of your own pictures, pixels; 0: what suits them, up to 64.": (
        "Lado das suas imagens, em pixels; 0: o que lhes convém, até 64."
    ),
    "Name of a model that fits the task.": "Nome de um modelo que serve à tarefa.",
    "Model or training fields; start=RUN with features=frozen, lora or tuned.": (
        "Campos do modelo ou do treino; start=TREINO com features=frozen, lora ou tuned."
    ),
    "steps=N, seconds=N or flops=N; empty: what the task suggests.": (
        "steps=N, seconds=N ou flops=N; vazio: o que a tarefa sugere."
    ),
    "Go on with, or forget, an earlier run.": "Continua, ou esquece, um treino anterior.",
    "Trains models on one task with equal budgets: one table, one picture, a verdict in English and Portuguese.": (
        "Treina modelos em uma tarefa com orçamento igual: uma tabela, uma figura, um veredito em inglês e português."
    ),
    "Two or more models that fit the task.": "Dois ou mais modelos que servem à tarefa.",
    "Runs of each model.": "Treinos de cada modelo.",
    "MODEL.KEY=VALUE, or KEY=VALUE for all; may be repeated.": "MODELO.CHAVE=VALOR, ou CHAVE=VALOR para todos.",
    "Folder for the report, instead of HOME/comparisons.": "Pasta do relatório, em vez de HOME/comparisons.",
    "TASK/MODEL of the newest run, or a run's folder.": "TAREFA/MODELO do treino mais novo, ou a pasta de um treino.",
    "Address to listen on.": "Endereço em que escuta.",
    "Asks a trained run. Without --input it answers its own example, which shows what a request looks like.": (
        "Pergunta a um treino. Sem --input ele responde a seu próprio exemplo, que mostra como é um pedido."
    ),
    "JSON, @FILE, or empty: the run's own example.": "JSON, @ARQUIVO, ou vazio: o exemplo do próprio treino.",
    # adapt, adapters
    "Trains a LoRA adapter on a folder of texts; the engine finds it by name, also while it runs. 4 bits stay.": (
        "Treina um adaptador LoRA com uma pasta de textos; o motor o encontra pelo nome, também em curso. 4 bits "
        "continuam 4 bits."
    ),
    "What clients will send as `model`.": "O que os clientes enviarão como `model`.",
    "Folder of an artifact or run, champion, or TASK/MODEL.": (
        "Pasta de um artefato ou treino, champion, ou TAREFA/MODELO."
    ),
    "Of the thin matrices; at most the model's narrowest side.": (
        "Das matrizes finas; no máximo o lado mais estreito do modelo."
    ),
    "Their product counts alpha / rank.": "O produto delas conta alpha / rank.",
    "Updates of the thin matrices.": "Correções das matrizes finas.",
    "Windows of text in an update.": "Janelas de texto em uma correção.",
    "Tokens of a window; 0 = the model's.": "Tokens de uma janela; 0 = os do modelo.",
    "Peak learning rate.": "Taxa de aprendizado máxima.",
    "Take the name from the adapter that has it.": "Toma o nome do adaptador que o tem.",
    "Also an adapter that is worse than the model alone.": "Também um adaptador pior que o modelo sozinho.",
    "Lists the adapters, what they gained, and whether they fit the champion.": (
        "Lista os adaptadores, o que ganharam, e se servem ao campeão."
    ),
    "Shows how an adapter was made, on what, and what it gained.": (
        "Mostra como um adaptador foi feito, sobre o quê, e o que ganhou."
    ),
    "As `oliveira adapters list` shows it.": "Como `oliveira adapters list` mostra.",
    "Removes an adapter; a running server stops answering to its name at once.": (
        "Remove um adaptador; um servidor em curso deixa logo de responder por esse nome."
    ),
    # compile
    "Writes a gpt's decode step as an ONNX graph, times it beside the native step and torch, and notes the fastest.": (
        "Escreve o passo de decodificação de um gpt como grafo ONNX, mede-o ao lado do passo nativo e do torch, e "
        "anota o mais rápido."
    ),
    "The engine reads the note when it starts. It stands beside the artifact and holds for this machine only.\n"
    "With --max-loss also forms that lose a little take part; they serve if serve.max_loss allows as much.": (
        "O motor lê a nota ao iniciar. Ela fica ao lado do artefato e vale só nesta máquina. Com --max-loss concorrem "
        "também formas que perdem um pouco; elas servem se serve.max_loss permite tanto."
    ),
    "Nats a token that a faster form may lose; left out: serve.max_loss of the home.": (
        "Nats por token que uma forma mais rápida pode perder; sem ele: serve.max_loss da pasta."
    ),
    "Held-out text for --max-loss, UTF-8; left out: what the home keeps for it.": (
        "Texto separado para --max-loss, UTF-8; sem ele: o que a pasta guarda para isso."
    ),
    "Folder of an artifact or run, champion, or TASK/MODEL of a run.": (
        "Pasta de um artefato ou treino, champion, ou TAREFA/MODELO de um treino."
    ),
    "Where onnxruntime computes: tensorrt, cuda, cpu, or auto: the first that starts.": (
        "Onde o onnxruntime calcula: tensorrt, cuda, cpu, ou auto: o primeiro que inicia."
    ),
    "Of every candidate; serve.threads of the world.": "De cada candidato; serve.threads do mundo.",
    "Numbers of streams in a step, all of which count.": "Números de fluxos em um passo; todos contam.",
    "Turns of each candidate; the median counts.": "Voltas de cada candidato; conta a mediana.",
    # keys
    "Keys of the server: create, list, revoke.": "Chaves do servidor: criar, listar, revogar.",
    "Makes a key and prints it once; only a salted hash is kept.": (
        "Cria uma chave e a mostra uma vez; só o hash com sal é guardado."
    ),
    "Whose key it is.": "De quem é a chave.",
    "May also swap, roll back and retrain.": "Também pode trocar, voltar atrás e retreinar.",
    "Shows every key, without its secret.": "Mostra todas as chaves, sem o segredo.",
    "Makes keys worthless within a second, without a restart. Until then they are good, also over restarts.": (
        "Revoga chaves em um segundo, sem reiniciar. Até então valem, mesmo depois de reiniciar."
    ),
    "Ids of keys, as `keys list` shows them.": "Números de chaves, como `keys list` mostra.",
    # formulas
    "Every formula of the seed documents: as written, as published, and a numeric check.": (
        "Cada fórmula dos documentos-semente: como escrita, como publicada, e uma verificação numérica."
    ),
    "Shows every formula: where it stands in the seed documents, whether it is right, and what computes it.": (
        "Mostra cada fórmula: onde está nos documentos-semente, se está certa, e o que a calcula."
    ),
    "One JSON value in the place of text.": "Um valor JSON em vez de texto.",
    "Shows one formula: the seed document's text, the published form, what is wrong, and its variants.": (
        "Mostra uma fórmula: o texto do documento-semente, a forma publicada, o que está errado, e suas variantes."
    ),
    "As `oliveira formulas list` names it.": "Como `oliveira formulas list` a chama.",
    "Runs numeric checks and shows their figures; exit code 1 if a claim fails.": (
        "Executa as verificações numéricas e mostra os números; código 1 se uma afirmação falha."
    ),
    "Which; without any, all.": "Quais; sem nenhuma, todas.",
    "Only formulas with a claim that fails.": "Só fórmulas com uma afirmação que falha.",
    "Writes all of it as one Markdown page.": "Escreve tudo como uma página Markdown.",
    "File to write; without it, standard output.": "Arquivo a escrever; sem ele, a saída padrão.",
    **TASK_HELP,
    **BASE_HELP,
    **HOME_HELP,
    **TEXT_HELP,
    **LIFE_HELP,
    **OUTWARD_HELP,
}

WORDS = {
    # Help
    "Examples:": "Exemplos:",
    "Arguments": "Argumentos",
    "Options": "Opções",
    "Commands": "Comandos",
    "[default: {}]": "[padrão: {}]",
    "[required]": "[obrigatório]",
    "[env var: {}]": "[variável de ambiente: {}]",
    # Tables
    "name": "nome",
    "title": "título",
    "licence": "licença",
    "layer": "camada",
    "class": "classe",
    "output": "saída",
    "parameters": "parâmetros",
    "calls": "chamadas",
    "stage": "etapa",
    "state": "estado",
    "seconds": "segundos",
    "result": "resultado",
    "fits the champion": "serve ao campeão",
    "bits per byte": "bits por byte",
    "weights, MB": "pesos, MB",
    "scopes": "alcance",
    "created": "criada",
    "revoked": "revogada",
    "good": "válida",
    "yes": "sim",
    "no": "não",
    "nothing": "nada",
    "input": "entrada",
    "weights": "pesos",
    "forward": "ida",
    "with backward": "ida e volta",
    "kept for backward": "para a volta",
    "times": "tempos",
    "FLOPs leave out": "FLOPs não contam",
    "published results  results/RECIPE.json, -picture.png and .png (its curve)": (
        "publicados         results/RECEITA.json, -picture.png e .png (a curva)"
    ),
    "pages of models    docs/models/MODEL.md": "páginas            docs/models/MODELO.md",
    "your runs          HOME/runs/TASK/MODEL/…/curve.png, picture.png, run.json": (
        "seus treinos       HOME/runs/TAREFA/MODELO/…/curve.png, picture.png, run.json"
    ),
    "your comparisons   HOME/comparisons/TASK-MODELS/report.md, compare.png": (
        "suas comparações   HOME/comparisons/TAREFA-MODELOS/report.pt-BR.md, compare.png"
    ),
    "test, lower is better": "teste, menor é melhor",
    "test, higher is better": "teste, maior é melhor",
    "artifact": "artefato",
    "kind": "tipo",
    "parent": "origem",
    "when": "quando",
    "what": "o quê",
    "verdict": "veredito",
    "by": "por",
    "why": "por quê",
    # Progress
    "collect": "coleta",
    "preprocess": "preparo",
    "train": "treino",
    "adapt": "adaptação",
    "compress": "compressão",
    "package": "pacote",
    "export": "exportação",
    "serve": "serviço",
    "monitor": "vigia",
    "compare": "comparação",
    "reused": "reusado",
    "done": "pronta",
    "waiting": "aguarda",
    "running": "em curso",
    "failed": "falhou",
    "draining …": "esvaziando a fila …",
    "stopped": "parado",
    **TABLE_WORDS,
    **BASE_WORDS,
    **FOLDER_WORDS,
    **FIGURE_WORDS,
    **TEXT_WORDS,
    **HOME_WORDS,
    **LIFE_WORDS,
}
