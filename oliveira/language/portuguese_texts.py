"""What the program says of a user's own texts and documents, in Brazilian Portuguese."""

from __future__ import annotations

TEXT_SENTENCES = {
    "{} is gone, and a retraining needs it beside the truths. Put it back there.": (
        "{} sumiu, e um retreino precisa dele junto das verdades. Ponha de volta ali."
    ),
    "folder {} does not exist. Give the folder that holds your {} files.": (
        "a pasta {} não existe. Dê a pasta que tem os seus arquivos {}."
    ),
    "folder {} is a home of oliveira, not a folder of your files. Give another one.": (
        "a pasta {} é uma casa do oliveira, não uma pasta de arquivos seus. Dê outra."
    ),
    "folder {} holds no {} file{}. Put some there.": "a pasta {} não tem arquivo {}{}. Ponha algum.",
    "{} is no {} file. Give one, or a folder of them.": "{} não é um arquivo {}. Dê um, ou uma pasta deles.",
    "{} has gone while the folder was read. Start again.": "{} sumiu enquanto a pasta era lida. Comece de novo.",
    "{} cannot be read ({}). Allow it (chmod u+r) or remove it.": (
        "não dá para ler {} ({}). Permita (chmod u+r) ou remova."
    ),
    "{} is damaged ({}). Pack it again.": "{} está danificado ({}). Compacte de novo.",
    "{} is not text (it holds NUL bytes). Move it out of the folder.": (
        "{} não é texto (tem bytes NUL). Tire da pasta."
    ),
    "{} is empty. Put text there, or remove it.": "{} está vazio. Ponha texto, ou remova.",
    "{} holds chats (messages), of which only texts are learnt here. Give each text in a field of its own, or name "
    "such a field (?text=FIELD).": (
        "{} contém conversas (messages), das quais aqui só se aprendem textos. Dê cada texto num campo seu, ou diga "
        "qual (?text=CAMPO)."
    ),
    '{}: line {} is not a JSON object with texts, like {"text": "…"}. Mend it.': (
        '{}: a linha {} não é um objeto JSON com textos, como {{"text": "…"}}. Conserte.'
    ),
    "{} has no column of texts. Name one: FOLDER?text=COLUMN, or leave the file out.": (
        "{} não tem coluna de textos. Diga uma: PASTA?text=COLUNA, ou deixe o arquivo de fora."
    ),
    "{} has no column of texts '{}'. There are: {}.": "{} não tem a coluna de textos '{}'. Há: {}.",
    "{}: line {} is longer than {} million characters. Cut it into several lines.": (
        "{}: a linha {} tem mais de {} milhões de caracteres. Corte em várias linhas."
    ),
    "{} is a page without text (scripts or pictures alone). Save what it shows, or leave it.": (
        "{} é uma página sem texto (só scripts ou imagens). Salve o que ela mostra, ou deixe de fora."
    ),
    "{} is encrypted. Save it without a password.": "{} está cifrado. Salve sem senha.",
    "{} holds {} page(s) and no text: it was scanned. Recognise its text first (OCR).": (
        "{} tem {} página(s) e nenhum texto: foi digitalizado. Reconheça o texto antes (OCR)."
    ),
    "{} needs pypdf to be read. Install it: pip install 'oliveira[texts]', or save it as .txt.": (
        "{} precisa do pypdf para ser lido. Instale: pip install 'oliveira[texts]', ou salve como .txt."
    ),
    "{} is not a whole PDF ({}). Save it again.": "{} não é um PDF inteiro ({}). Salve de novo.",
    "{} is encrypted, or a document of an older Office. Save it as .docx without a password.": (
        "{} está cifrado, ou é um documento de um Office antigo. Salve como .docx sem senha."
    ),
    "{} is a document without text. Leave it out.": "{} é um documento sem texto. Deixe de fora.",
    "{} is a book without text (pictures alone). Leave it out.": "{} é um livro sem texto (só imagens). Deixe de fora.",
    "{} is not a whole .docx file ({}). Save it again.": "{} não é um .docx inteiro ({}). Salve de novo.",
    "{} is not a whole .epub file ({}). Save it again.": "{} não é um .epub inteiro ({}). Salve de novo.",
    "{} is encrypted. Give a book without protection.": "{} está cifrado. Dê um livro sem proteção.",
    "the text has {} characters, at least {} are needed: {} of them must be held out to judge on. Give more text{}.": (
        "o texto tem {} caracteres, são precisos pelo menos {}: {} deles ficam separados para julgar. Dê mais texto{}."
    ),
    "--data {}, {}, needs --task forecast, classify or translate. Add it (`oliveira data`).": (
        "--data {}, {}, precisa de --task forecast, classify ou translate. Acrescente (`oliveira data`)."
    ),
    "--target goes with --task forecast, classify or translate. Add it.": (
        "--target vai com --task forecast, classify ou translate. Acrescente."
    ),
}

TEXT_LINES = {
    "{} is gone: what was learnt from it is served and watched, and retraining waits for it. Put it back there; "
    "--life NAME with --task and --data learns from another beside it": (
        "{} sumiu: o que se aprendeu com ele é servido e vigiado, e o retreino espera por ele. Ponha de volta ali; "
        "--life NOME com --task e --data aprende com outro ao lado"
    ),
    "{} is gone: what was learnt from it is served, watched and retrained. Put it back there, or learn anew from "
    "another with --text": (
        "{} sumiu: o que se aprendeu com ele é servido, vigiado e retreinado. Ponha de volta ali, ou aprenda de novo "
        "com outro por --text"
    ),
    "{} file(s) that are not {}": "{} arquivo(s) que não são {}",
    "{} symbolic link(s) to folders": "{} ligação(ões) simbólica(s) a pastas",
    "{} broken link(s) or special file(s)": "{} ligação(ões) quebrada(s) ou arquivo(s) especial(is)",
    "{} symbolic link(s) into a home of oliveira": "{} ligação(ões) simbólica(s) para dentro de uma casa do oliveira",
    "{} (a home of oliveira)": "{} (uma casa do oliveira)",
    "{}: {} documents, {} characters": "{}: {} documentos, {} caracteres",
    "passed over: {}": "fica de fora: {}",
    "{}: passed over {}": "{}: ficam de fora {}",
    "{}: read as {}": "{}: lido como {}",
    "{}: the texts are those of '{}'": "{}: os textos são os de '{}'",
    "{}: {} lines without a text are left out, the first is line {}": (
        "{}: {} linhas sem texto ficam de fora, a primeira é a linha {}"
    ),
    "and {} more of that kind": "e mais {} desse tipo",
    "{} empty texts are left out": "{} textos vazios ficam fora",
}

TEXT_WORDS = {
    "data": "dados",
    "UTF-8 with damaged letters": "UTF-8 com letras danificadas",
    "a table": "uma tabela",
    "with --text or --target": "com --text ou --target",
}

TEXT_HELP = {
    "Your own texts as the base domain: a folder, a .zip or a file.": (
        "Seus textos como domínio base: uma pasta, um .zip ou um arquivo."
    ),
    "Your own file or folder: of a --task, else texts as --text.": (
        "Seu arquivo ou pasta: de uma --task, senão textos como em --text."
    ),
    "Folder, .zip or file of your texts; a tenth of them is held out.": (
        "Pasta, .zip ou arquivo dos seus textos; um décimo é separado para medir."
    ),
    "A table (.csv, .tsv, .xlsx, .parquet), or texts or pictures: a folder, a .zip or a file.": (
        "Uma tabela (.csv, .tsv, .xlsx, .parquet), ou textos ou imagens: uma pasta, um .zip ou um arquivo."
    ),
    "Says what a table, folder or document of yours is, which tasks fit it and what is wrong with it, and draws it.": (
        "Diz o que é uma tabela, pasta ou documento seu, que tarefas lhe servem e o que há de errado, e desenha."
    ),
}
