"""Sentences of the program in Brazilian Portuguese: refusals, and what it says when all went well.

The keys are those of the code, {} for what they are about; `portuguese.py` holds help texts and single words.
"""

from __future__ import annotations

from oliveira.language.portuguese_bases import BASE_SENTENCES
from oliveira.language.portuguese_figures import FIGURE_SENTENCES
from oliveira.language.portuguese_folders import FOLDER_SENTENCES
from oliveira.language.portuguese_home import HOME_SENTENCES
from oliveira.language.portuguese_lives import LIFE_SENTENCES
from oliveira.language.portuguese_outward import OUTWARD_SENTENCES
from oliveira.language.portuguese_refusals import REFUSALS
from oliveira.language.portuguese_tables import TABLE_SENTENCES
from oliveira.language.portuguese_tasks import TASK_SENTENCES
from oliveira.language.portuguese_texts import TEXT_SENTENCES

SENTENCES = {
    # Of the command line itself
    "Missing argument {}.": "falta o argumento {}.",
    "Missing option {}.": "falta a opção {}.",
    "No such option: {}": "não há a opção {}.",
    "No such option: {} Did you mean {}?": "não há a opção {} Seria {}?",
    "No such command {}.": "não há o comando {}.",
    "No such command {}. Did you mean {}?": "não há o comando {}. Seria {}?",
    "Invalid value for {}: {}": "valor inválido para {}: {}",
    "Got unexpected extra argument(s) ({})": "argumento a mais ({})",
    "Option {} requires an argument.": "a opção {} pede um valor.",
    "{} See `{} --help`.": "{} Veja `{} --help`.",
    "--lang {} is not a language of this program. Use en or pt-BR.": (
        "--lang {} não é uma língua deste programa. Use en ou pt-BR."
    ),
    # Worlds
    "environment variable {} is not a setting. Did you mean {}?": "a variável {} não é um campo. Seria {}?",
    "{}: {} is not a section. `oliveira up --print-world` shows the fields.": (
        "{}: {} não é uma seção. `oliveira up --print-world` mostra os campos."
    ),
    "{} is not valid TOML: {}. Mend that line.": "{} não é TOML válido: {}. Corrija essa linha.",
    "serve.draft = {} is not the folder of an artifact. Give one, or leave it out.": (
        "serve.draft = {} não é a pasta de um artefato. Dê uma, ou não o escreva."
    ),
    "{} is damaged. Remove it and name the world again (--world, --text, --set): what was made stays.": (
        "{} está danificado. Remova-o e diga o mundo outra vez (--world, --text, --set): o que foi feito permanece."
    ),
    # Homes and lives
    "--home {} holds no ledger. Start with `oliveira up`, or give the folder that it used.": (
        "--home {} não tem livro de registro. Comece com `oliveira up`, ou dê a pasta que ele usou."
    ),
    "--url {} needs a key. Give --key, or set OLIVEIRA_KEY.": (
        "--url {} precisa de uma chave. Dê --key, ou defina OLIVEIRA_KEY."
    ),
    "--url {} is not the address of a server. Write http://HOST:PORT.": (
        "--url {} não é o endereço de um servidor. Escreva http://HOST:PORTA."
    ),
    "the key holds a character that no key has. Copy it again.": (
        "a chave tem um caractere que nenhuma chave tem. Copie-a de novo."
    ),
    "no server answers at {}: {}. Start `oliveira up`, or give its --url.": (
        "nenhum servidor responde em {}: {}. Comece `oliveira up`, ou dê o --url dele."
    ),
    "what answers at {} is not a server of this program. Give the --url of one.": (
        "o que responde em {} não é um servidor deste programa. Dê o --url de um."
    ),
    "{} is served here, which answers requests and does not talk. Send them to /v1/predict as above, "
    "with a key of `oliveira keys create NAME` in OLIVEIRA_KEY.": (
        "aqui é servido {}, que responde a pedidos e não conversa. Mande-os a /v1/predict como acima, com uma chave de "
        "`oliveira keys create NOME` em OLIVEIRA_KEY."
    ),
    "--home {} has no running server. Start `oliveira up` first.": (
        "--home {} não tem servidor em curso. Inicie `oliveira up` primeiro."
    ),
    "--home {} is a file. Give a folder.": "--home {} é um arquivo. Dê uma pasta.",
    "--json {} goes with --once. Add --once, or use `oliveira status --json`.": (
        "--json {} vai com --once. Acrescente --once, ou use `oliveira status --json`."
    ),
    "there is no {} in --home {} yet. Give an artifact's folder, or a run TASK/MODEL.": (
        "ainda não há {} em --home {}. Dê a pasta de um artefato, ou um treino TAREFA/MODELO."
    ),
    "artifact {} is not in the ledger. `oliveira history` lists those that are.": (
        "o artefato {} não está no livro de registro. `oliveira history` lista os que estão."
    ),
    "a retraining is running already; `oliveira status` shows how far it is.": (
        "já há um retreino em curso; `oliveira status` mostra onde está."
    ),
    "another `oliveira` ({}, process {}) is using {}. Stop it, or choose another folder with --home.": (
        "outro `oliveira` ({}, processo {}) está usando {}. Pare-o, ou escolha outra pasta com --home."
    ),
    "no space left at {} ({} MiB free). Free some space and start again: finished stages are kept.": (
        "não há espaço em {} ({} MiB livres). Libere espaço e comece de novo: o que terminou está guardado."
    ),
    "cannot write to {}: {}. Choose a folder you may write to with --home.": (
        "não se pode escrever em {}: {}. Escolha com --home uma pasta em que possa."
    ),
    "artifact {} is not a package of this ledger.": ("o artefato {} não é um pacote deste registro."),
    "artifact {} is not the challenger that waits for {}: that is {}. Name that one; `oliveira swap` "
    "serves any other.": (
        "o artefato {} não é o desafiante que espera por {}: esse é {}. Diga o nome dele; `oliveira swap` "
        "serve qualquer outro."
    ),
    "artifact {} {}. `oliveira history` lists those that are.": (
        "artefato {}: {}. `oliveira history` lista os que existem."
    ),
    "{}. It is not served; `oliveira history` lists others.": "{}. Não é servido; `oliveira history` lista outros.",
    "{}: {} is not the file that was written": "{}: {} não é o arquivo que foi escrito",
    "{}: the manifest cannot be read ({})": "{}: o manifesto não pode ser lido ({})",
    "{}: the manifest is not the one that was written": "{}: o manifesto não é o que foi escrito",
    "artifact {} is the champion already: there is nothing to swap.": (
        "o artefato {} já é o campeão: não há o que trocar."
    ),
    "no challenger waits for {}. `oliveira history` shows what was decided.": (
        "nenhum desafiante espera por {}. `oliveira history` mostra o que foi decidido."
    ),
    "retrain needs a running `oliveira up` in this home. Start it, then ask again.": (
        "retrain precisa de um `oliveira up` em execução nesta casa. Inicie-o e peça de novo."
    ),
    "retraining is paused. Say `oliveira resume` first.": ("o retreino está pausado. Diga antes `oliveira resume`."),
    "run {} is not in the ledger": ("a execução {} não está no registro"),
    "stage {} ({}) is done already": ("a etapa {} ({}) já terminou"),
    "stage {} is not running": ("a etapa {} não está em execução"),
    "the gate rejected challenger {}: {}. Reject it, or approve it all the same with a reason that is "
    'kept: --override "why".': (
        "o portão rejeitou o desafiante {}: {}. Rejeite-o, ou aprove-o mesmo assim com um motivo que fica "
        'guardado: --override "por quê".'
    ),
    "the previous model changed while it was verified. Ask again.": (
        "o modelo anterior mudou enquanto era verificado. Peça de novo."
    ),
    "the program stopped before it was done; nothing of it will run later. Ask again.": (
        "o programa parou antes do fim; nada disso será feito depois. Peça de novo."
    ),
    "there is no previous model to roll back to: nothing older was served, or it was rolled back. "
    "`oliveira history` shows what was, `oliveira swap` serves any of it.": (
        "não há modelo anterior a que voltar: nada mais antigo foi servido, ou já foi revertido. `oliveira "
        "history` mostra o que houve, `oliveira swap` serve qualquer um."
    ),
    "wish {} is not in the ledger": ("o pedido {} não está no registro"),
    "wish {} is unknown.": ("o pedido {} é desconhecido."),
    "{} is withdrawn: it will not be done later.": ("{} foi retirado: não será feito depois."),
    "{} was not taken up within {} s and is withdrawn{}. Ask again.": (
        "{} não foi atendido em {} s e foi retirado{}. Peça de novo."
    ),
    "{} {} is not a number to go by. Give a finite one.": "{} {} não é um número que sirva. Dê um finito.",
    "{} is too large. Give at most {}.": "{} é grande demais. Dê no máximo {}.",
    "{} {} is too large. Give less.": "{} {} é grande demais. Dê menos.",
    "--budget {} is too large. Give at most steps={}.": "--budget {} é grande demais. Dê no máximo steps={}.",
    "this needs more memory than there is. Use a smaller model, a shorter max_len or a smaller batch_size.": (
        "isto precisa de mais memória do que há. Use um modelo menor, um max_len mais curto ou um batch_size menor."
    ),
    "{} is empty. Give a value, or leave it out.": "{} está vazio. Dê um valor, ou não o escreva.",
    "{} is empty. Give a path; a dot means this folder.": "{} está vazio. Dê um caminho; um ponto é esta pasta.",
    "key name {} must have 1 to 64 characters, all of which can be shown.": (
        "o nome de chave {} precisa ter de 1 a 64 caracteres, todos visíveis."
    ),
    "key {} is unknown or revoked already. `oliveira keys list` shows the keys.": (
        "a chave {} é desconhecida ou já foi revogada. `oliveira keys list` mostra as chaves."
    ),
    "key {} is revoked": "a chave {} está revogada",
    "world {} cannot be read. Give the path of a .toml file or one of: {}.": (
        "o mundo {} não pode ser lido. Dê o caminho de um arquivo .toml ou um destes: {}."
    ),
    "--set {} is not of the form section.field=value, for example --set train.steps=50.": (
        "--set {} não tem a forma seção.campo=valor, por exemplo --set train.steps=50."
    ),
    # Tasks, models, runs
    "task {} is not known. Did you mean {}?": "a tarefa {} não é conhecida. Seria {}?",
    "model {} is not in the catalogue. Did you mean {}?": "o modelo {} não está no catálogo. Seria {}?",
    "{} does not fit {}, which eats {} and gives {}. Models that do: {}.": (
        "{} não serve a {}, que aceita {} e dá {}. Modelos que servem: {}."
    ),
    "{} has no {}. Did you mean {}?": "{} não tem {}. Seria {}?",
    "{} is not key=value, for example d_model=128.": "{} não é chave=valor, por exemplo d_model=128.",
    "steps = {} is a budget: write --budget steps={}.": "steps = {} é um orçamento: escreva --budget steps={}.",
    "{} = {} has no effect here: the task decides. Leave it out, or train a world.": (
        "{} = {} não tem efeito aqui: a tarefa decide. Deixe de fora, ou treine um mundo."
    ),
    "--budget {} is not steps=N, seconds=N or flops=N, for example steps=600.": (
        "--budget {} não é steps=N, seconds=N ou flops=N, por exemplo steps=600."
    ),
    "--budget {}={} does not pay for one step. Give more, or a smaller model.": (
        "--budget {}={} não paga um passo. Dê mais, ou um modelo menor."
    ),
    "{} = {} is set by {}: {}. Leave it out.": "{} = {} é dado por {}: {}. Deixe de fora.",
    "{} = {} is refused: {}. Correct it.": "{} = {} é recusado: {}. Corrija.",
    "a comparison needs two models or more, not {}. Name another.": (
        "uma comparação precisa de dois modelos ou mais, não {}. Nomeie outro."
    ),
    "--set {}: {} is not among the models compared ({}).": "--set {}: {} não está entre os modelos comparados ({}).",
    "recipe {} is unknown. Choose one of: {}.": "a receita {} é desconhecida. Escolha uma destas: {}.",
    "run {} is not in {}. {} Train one with `oliveira train TASK MODEL`.": (
        "o treino {} não está em {}. {} Treine um com `oliveira train TAREFA MODELO`."
    ),
    "There is no run yet.": "Ainda não há treino.",
    "Runs here: {}.": "Treinos aqui: {}.",
    "Train it with `oliveira train {} {}`.": "Treine com `oliveira train {} {}`.",
    "run {} in {} was only measured by `compare`, which keeps no weights. {}": (
        "o treino {} em {} só foi medido por `compare`, que não guarda pesos. {}"
    ),
    "run {} was measured by `compare` and kept no weights. {}": (
        "o treino {} foi medido por `compare` e não guardou pesos. {}"
    ),
    "{}: outputs differ by {}, more than {}. It is refused.": "{}: as saídas diferem em {}, mais que {}. É recusado.",
    "a request is a JSON object, for example {}.": "um pedido é um objeto JSON, por exemplo {}.",
    "the input has {} steps, more than max_len = {}. Send less.": (
        "a entrada tem {} passos, mais que max_len = {}. Envie menos."
    ),
    "--input cannot be read as JSON: {}. Give an object or @FILE.": (
        "--input não pode ser lido como JSON: {}. Dê um objeto ou @ARQUIVO."
    ),
    "the request holds a number that is not finite or too large for any float. Correct it.": (
        "o pedido tem um número que não é finito ou é grande demais. Corrija."
    ),
    "the model's answer is not a finite number: the request's numbers are too large for it.": (
        "a resposta do modelo não é um número finito: os números do pedido são grandes demais para ele."
    ),
    "stopped at step {} of {}; start again to go on from there.": (
        "parado no passo {} de {}; comece de novo para continuar dali."
    ),
    "stopped at once: the same command goes on from the last checkpoint.": (
        "parado já: o mesmo comando continua do último ponto guardado."
    ),
    "stopped before the first checkpoint: nothing is kept, the same command begins anew.": (
        "parado antes do primeiro ponto guardado: nada ficou, o mesmo comando começa de novo."
    ),
    "--streams {} is not a list of whole numbers. Use for example 1,8.": (
        "--streams {} não é uma lista de números inteiros. Use por exemplo 1,8."
    ),
    "--text {} cannot be read as UTF-8 text: {}. Give another file.": (
        "--text {} não pode ser lido como texto UTF-8: {}. Dê outro arquivo."
    ),
    # Adapters
    "name {} is not an adapter's. Use letters, digits, '.', '_' and '-', at most 64.": (
        "{} não é nome de adaptador. Use letras, algarismos, '.', '_' e '-', no máximo 64."
    ),
    "name {} means the served model itself. Choose another name for the adapter.": (
        "o nome {} significa o próprio modelo servido. Escolha outro para o adaptador."
    ),
    "name {} is taken by an adapter of this home. Choose another, or add --replace "
    "(`oliveira adapters show {}` tells what it is).": (
        "o nome {} já é de um adaptador desta pasta. Escolha outro, ou acrescente --replace "
        "(`oliveira adapters show {}` diz o que é)."
    ),
    "adapter {} is not in {}. There are: {}.": "o adaptador {} não está em {}. Há: {}.",
    "adapter {} is removed": "o adaptador {} foi removido",
    "--lr {} and --alpha {} must be above 0.": "--lr {} e --alpha {} precisam ser maiores que 0.",
    "requests[{}]: {}": "requests[{}]: {}",
    "{}a {} does not continue a text. Give one of: {}.": "{}um {} não continua um texto. Dê um destes: {}.",
    "--max-len {} is not between 2 and the model's {} tokens.": "--max-len {} não está entre 2 e {}, os do modelo.",
    "{} gives {} tokens to learn from, one window needs {}. Add text, or give --max-len {} or less.": (
        "{} dá {} tokens para aprender, uma janela precisa de {}. Acrescente texto, ou dê --max-len {} ou menos."
    ),
    "adapt.rank = {} is above {}, the narrower side of layer {} ({} → {}): more learns nothing more. Use {} or less.": (
        "adapt.rank = {} passa de {}, o lado mais estreito da camada {} ({} → {}): mais nada aprende. Use {} ou menos."
    ),
    "{} holds {}, all of one kind: one must be held out to see what was learned. "
    "Divide the text into several files, or add text that differs.": (
        "{} tem {}, tudo de um só tipo: um precisa ser separado para ver o que foi aprendido. "
        "Divida o texto em vários arquivos, ou acrescente texto diferente."
    ),
    "every text of {} repeats parts of the others: none can be held out and judge. "
    "Take out what repeats (headers, quotations), or add text that differs.": (
        "cada texto de {} repete partes dos outros: nenhum pode ser separado e julgar. "
        "Tire o que se repete (cabeçalhos, citações), ou acrescente texto diferente."
    ),
    "{} is worse than the model without it: {}. It is not kept. Add text, or train less (--lr, --steps); "
    "the same command with --keep takes it all the same.": (
        "{} é pior que o modelo sem ele: {}. Não fica. Acrescente texto, ou treine menos (--lr, --steps); "
        "o mesmo comando com --keep o aceita mesmo assim."
    ),
    # Texts of one's own
    # What commands say when all went well
    "{} parameters, {} steps in {} s": "{} parâmetros, {} passos em {} s",
    "{} serves from the engine's next start on": "{} serve a partir do próximo início do motor",
    (
        "it loses {} nats a token and serve.max_loss of the home is {}: "
        "raise that, or the form that loses nothing serves"
    ): ("perde {} nats por token e o serve.max_loss da casa é {}: aumente-o, ou serve a forma que não perde nada"),
    'next: send "model": "{}" to the server': 'a seguir: envie "model": "{}" ao servidor',
    "next: oliveira export {}; oliveira predict {}": "a seguir: oliveira export {}; oliveira predict {}",
    "{} → {} bits per byte on {} held-out document(s)": "{} → {} bits por byte em {} documento(s) separado(s)",
    "{} that repeated others left out": "sem {} que repetiam outros",
    "median (quickest to slowest) of {} rounds on {} thread(s)": (
        "mediana (do mais rápido ao mais lento) de {} voltas em {} thread(s)"
    ),
    "{} {} seed {}: found again in {}": "{} {} semente {}: reencontrado em {}",
    "process {} trains the same run: waiting for it; Ctrl-C ends the wait": (
        "o processo {} faz o mesmo treino: espera-se por ele; Ctrl-C encerra a espera"
    ),
    "stopped while process {} trains the same run.": "parado enquanto o processo {} faz o mesmo treino.",
    "{} is damaged ({}). Train it anew: `oliveira train` with --fresh, or remove {}.": (
        "{} está danificado ({}). Treine de novo: `oliveira train` com --fresh, ou apague {}."
    ),
    "{} is damaged ({}). Remove it to train from the start.": (
        "{} está danificado ({}). Apague-o para treinar do começo."
    ),
    "cannot write to {}: the file would be larger than this session or this disk takes. Raise the limit "
    "(`ulimit -f unlimited`), or choose another folder with --home.": (
        "não se pode gravar em {}: o arquivo passaria do que esta sessão ou este disco aceita. Aumente o limite "
        "(`ulimit -f unlimited`), ou escolha outra pasta com --home."
    ),
    "the disk under {} fails (input/output error). Mend it, or choose a folder on another one with --home.": (
        "o disco de {} falha (erro de entrada e saída). Conserte-o, ou escolha com --home uma pasta em outro."
    ),
    "{} is damaged ({}). Restore a backup (`oliveira restore`), or start with another --home.": (
        "{} está danificado ({}). Restaure um backup (`oliveira restore`), ou comece com outro --home."
    ),
    "{} is damaged (it is empty, and a life's {} are there). Restore a backup (`oliveira restore`), or start with "
    "another --home.": (
        "{} está danificado (está vazio, mas {} de uma vida estão lá). Restaure um backup (`oliveira restore`), ou "
        "comece com outro --home."
    ),
    "{} is of an older version, which has not what is asked for ({}). `oliveira up` brings it up to date.": (
        "{} é de uma versão anterior, que não tem o que se pede ({}). `oliveira up` o atualiza."
    ),
    "{} {} seed {}: going on in {}": "{} {} semente {}: continua em {}",
    "{}: {} MB, largest difference {}": "{}: {} MB, maior diferença {}",
    "ETA {}": "faltam {}",
    "after {}": "após {}",
    **TABLE_SENTENCES,
    **BASE_SENTENCES,
    **TASK_SENTENCES,
    **FOLDER_SENTENCES,
    **FIGURE_SENTENCES,
    **TEXT_SENTENCES,
    **HOME_SENTENCES,
    **LIFE_SENTENCES,
    **OUTWARD_SENTENCES,
    **REFUSALS,
}
