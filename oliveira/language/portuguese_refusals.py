"""Portuguese of what the rooms below the command line refuse: texts, stages, homes, addresses, models brought in."""

from __future__ import annotations

REFUSALS = {
    "the path {} cannot be used: {}. Write the whole path.": "o caminho {} não pode ser usado: {}. Escreva-o inteiro.",
    # Ledger and home
    "SQLite {} can lose committed pages in WAL mode. Install apsw >= 3.53.": (
        "o SQLite {} pode perder páginas confirmadas no modo WAL. Instale apsw >= 3.53."
    ),
    "{} has schema {}, this program knows {}. Use the version of Oliveira that wrote it, or another --home.": (
        "{} tem o esquema {}, este programa conhece {}. Use a versão do Oliveira que o escreveu, ou outra --home."
    ),
    "home {} was made with another world ({}): {} would change {}. Leave {} out to go on with its own, change it on "
    "purpose (--set {}={}), or give another --home.": (
        "a pasta {} foi criada com outro mundo ({}): {} mudaria {}. Deixe {} de fora para seguir com o dela, mude de "
        "propósito (--set {}={}), ou dê outra --home."
    ),
    "{} is not a world that this version reads ({}). Use the version of Oliveira that wrote it, or another --home.": (
        "{} não é um mundo que esta versão lê ({}). Use a versão do Oliveira que o escreveu, ou outra --home."
    ),
    "the package is not in the ledger; start again with another --home.": (
        "o pacote não está no registro; comece de novo com outra --home."
    ),
    "the stage {} has no result yet. Run `oliveira up` once.": (
        "a etapa {} ainda não tem resultado. Rode `oliveira up` uma vez."
    ),
    "stopped; start again to go on.": "parado; comece de novo para continuar.",
    # Texts that are too short, too alike, not there
    "{} validation tokens are too few to measure a loss. Give more text.": (
        "{} tokens de validação são poucos para medir uma perda. Dê mais texto."
    ),
    "of {} characters only {} would be held out to judge on, {} are needed: the {} documents differ too much in "
    "length. Divide the long ones into several files.": (
        "de {} caracteres só {} ficariam separados para julgar, são precisos {}: os {} documentos têm tamanhos muito "
        "diferentes. Divida os longos em vários arquivos."
    ),
    "model.max_len = {} needs at least {} training tokens, about {} characters; there are {}. Give more text or a "
    "smaller model.max_len.": (
        "model.max_len = {} precisa de pelo menos {} tokens de treino, cerca de {} caracteres; há {}. Dê mais texto ou "
        "um model.max_len menor."
    ),
    "model.max_len = {} needs at least {} training tokens, data.{} = {} gives {}. Give more text or a smaller "
    "model.max_len.": (
        "model.max_len = {} precisa de pelo menos {} tokens de treino, data.{} = {} dá {}. Dê mais texto ou um "
        "model.max_len menor."
    ),
    "monitor.window = {} needs about {} held-out characters, there are {} of {}. Use at most {}, hold out more "
    "(data.validation, data.test), or give more text.": (
        "monitor.window = {} precisa de cerca de {} caracteres separados, há {} de {}. Use no máximo {}, separe mais "
        "(data.validation, data.test), ou dê mais texto."
    ),
    "monitor.window = {} needs {} held-out pieces with {} tokens, there are {} with {}. Give more text, hold out "
    "more of it (data.validation, data.test), or use a smaller monitor.window.": (
        "monitor.window = {} precisa de {} trechos separados com {} tokens, há {} com {}. Dê mais texto, separe mais "
        "(data.validation, data.test), ou use um monitor.window menor."
    ),
    "the source leaves {} characters after cleaning and removing duplicates, at least {} are needed. Add text or "
    "choose another data source.": (
        "a fonte deixa {} caracteres depois de limpar e tirar repetições, são precisos pelo menos {}. Acrescente texto "
        "ou escolha outra fonte."
    ),
    "{} leaves no document for {} among {} characters that are all alike. Add text that differs, or raise "
    "data.near_duplicate.": (
        "{} não deixa documento para {} entre {} caracteres todos parecidos. Acrescente texto diferente, ou aumente "
        "data.near_duplicate."
    ),
    "source {} cannot be had: {}. Check the network, or put {} in a folder and name that in {}{}.": (
        "a fonte {} não pode ser obtida: {}. Veja a rede, ou ponha {} numa pasta e diga qual em {}{}."
    ),
    "{} holds no text at all. Put text there or choose another source.": (
        "{} não tem texto algum. Ponha texto ali ou escolha outra fonte."
    ),
    "{} names no folder. Write {}FOLDER, for example {}~/my-texts.": (
        "{} não diz uma pasta. Escreva {}PASTA, por exemplo {}~/meus-textos."
    ),
    "source {} is not known. Use {}, or {}FOLDER for your own texts.": (
        "a fonte {} não é conhecida. Use {}, ou {}PASTA para os seus textos."
    ),
    "the weights of {} {} cannot be had: {}. Check the network, or put {} in a folder and name that in {}.": (
        "os pesos de {} {} não podem ser obtidos: {}. Veja a rede, ou ponha {} numa pasta e diga qual em {}."
    ),
    "{}: {} cannot be had: {}. Install {}, or put the file in a folder and name that in {}.": (
        "{}: {} não pode ser obtido: {}. Instale {}, ou ponha o arquivo numa pasta e diga qual em {}."
    ),
    # Retraining and the loop
    "{} characters of live text are fewer than update.min_new_chars = {}. Wait for more requests or lower it.": (
        "{} caracteres de texto vivo são menos que update.min_new_chars = {}. Espere mais pedidos ou diminua-o."
    ),
    "{} tokens of live text do not fill one window of {}. Wait for more requests.": (
        "{} tokens de texto vivo não enchem uma janela de {}. Espere mais pedidos."
    ),
    "the retraining failed: {}": "o retreino falhou: {}",
    "the server answered {} to live traffic: {}": "o servidor respondeu {} ao tráfego vivo: {}",
    "waited {} seconds for {}; see logs/ in {}.": "esperou {} segundos por {}; veja logs/ em {}.",
    "POST {} answered {}: {}": "POST {} respondeu {}: {}",
    "{} failed: {}": "{} falhou: {}",
    "the front did not open its port within 30 seconds.": "a frente não abriu a porta em 30 segundos.",
    "the {} process died {} times within a minute (exit code {}).": (
        "o processo {} morreu {} vezes em um minuto (código de saída {})."
    ),
    "there is no champion to improve yet.": "ainda não há campeão a melhorar.",
    "stopped before the decision; the next retraining starts from what was learnt.": (
        "parado antes da decisão; o próximo retreino parte do que foi aprendido."
    ),
    "stopped before it began.": "parado antes de começar.",
    "the wish for it was withdrawn.": "o pedido foi retirado.",
    # Models, their fields, where they start
    "features = frozen leaves nothing to learn: the head of this {} is part of its body. Say features=tuned, or "
    "tied=false where it has that field.": (
        "features = frozen não deixa nada a aprender: a saída deste {} é parte do corpo. Diga features=tuned, ou "
        "tied=false onde existe esse campo."
    ),
    "a {} has no features under its head that another task could start from. Leave out start.": (
        "um {} não tem features sob a saída de onde outra tarefa possa partir. Deixe start de fora."
    ),
    "start = {}: {} {}, here it is {}. Start from a {} that reads what this task gives it, with the same fields.": (
        "start = {}: {} {}, aqui é {}. Parta de um {} que lê o que esta tarefa lhe dá, com os mesmos campos."
    ),
    "features = {} is {}. Give start=TASK/MODEL and features={}.": (
        "features = {} é {}. Dê start=TAREFA/MODELO e features={}."
    ),
    "start = {} holds a {}, not a {}. Name one of a kind.": "start = {} tem um {}, não um {}. Diga um do mesmo tipo.",
    "train.schedule = noam needs a d_model, which a {} does not have. Use cosine.": (
        "train.schedule = noam precisa de um d_model, que um {} não tem. Use cosine."
    ),
    "{} needs {}. Give a value, for example {}=32.": "{} precisa de {}. Dê um valor, por exemplo {}=32.",
    "{}: gives = {} is refused. It gives {}.": "{}: gives = {} é recusado. Ele dá {}.",
    "{}: {} = {} is refused: {}. Its type is {}, its default {}.": (
        "{}: {} = {} é recusado: {}. O tipo é {}, o padrão {}."
    ),
    "{} has no training example. Give it more data.": "{} não tem exemplo de treino. Dê mais dados.",
    # Addresses
    "serve.host = {} is not an address of this machine. Use 127.0.0.1.": (
        "serve.host = {} não é um endereço desta máquina. Use 127.0.0.1."
    ),
    "cannot listen on {} port {}: {}. Choose another --host or --port.": (
        "não é possível escutar em {} porta {}: {}. Escolha outro --host ou --port."
    ),
    "port {} on {} is taken by another program. Choose another --port, or 0 for any.": (
        "a porta {} em {} está ocupada por outro programa. Escolha outra --port, ou 0 para qualquer uma."
    ),
    "serve.host = {} is open to the network without a key. Make one with `oliveira keys`.": (
        "serve.host = {} está aberto à rede sem chave. Crie uma com `oliveira keys`."
    ),
    "{} has no world.json. Start with `oliveira up --home {}`.": (
        "{} não tem world.json. Comece com `oliveira up --home {}`."
    ),
    "{}: {}: {}. Run `oliveira up`.": "{}: {}: {}. Rode `oliveira up`.",
    "{} cannot be read ({}: {}). Run `oliveira up`.": "{} não pode ser lido ({}: {}). Rode `oliveira up`.",
}
