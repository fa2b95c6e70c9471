"""What the program says of a user's own folders, pictures and pairs, in Brazilian Portuguese."""

from __future__ import annotations

FOLDER_SENTENCES = {
    "{} holds no {} file. Put some there.": "{} não tem arquivo {}. Ponha algum.",
    "{} holds {} files, more than {}. Give a part of it.": "{} tem {} arquivos, mais que {}. Dê uma parte.",
    "the folders of {} are called {}, as parts of a split are. Give one of them.": (
        "as pastas de {} se chamam {}, como partes de uma divisão. Dê uma delas."
    ),
    "the class '{}' of {} holds no {} file. Put some there, or remove it.": (
        "a classe '{}' de {} não tem arquivo {}. Ponha algum, ou remova a pasta."
    ),
    "{} holds {} folders of {}; a class is a folder, and there must be two. Sort them so.": (
        "{} tem {} pastas de {}; uma classe é uma pasta, e são precisas duas. Organize assim."
    ),
    "{} has more than {} class folders. Give a part of them.": "{} tem mais de {} pastas de classe. Dê uma parte.",
    "{}: {} in it has {} MiB, more than {}. Leave it out.": "{}: nele, {} tem {} MiB, mais que {}. Deixe de fora.",
    "{} is not a whole .zip file ({}). Pack it again.": "{} não é um .zip inteiro ({}). Compacte de novo.",
    "{} names a file outside of itself. Do not trust it; pack your own files again.": (
        "{} nomeia um arquivo fora de si. Não confie nele; compacte de novo os seus arquivos."
    ),
    "{} is encrypted. Pack your files without a password.": "{} está cifrado. Compacte os arquivos sem senha.",
    "{}: {} in it unpacks to {} MiB, more than {} times its size. Leave it out.": (
        "{}: nele, {} descompacta em {} MiB, mais de {} vezes o seu tamanho. Deixe de fora."
    ),
    "{} unpacks to more than {} MiB. Give a part of it.": "{} descompacta em mais de {} MiB. Dê uma parte.",
    "{}: {} in it is damaged ({}). Pack it again.": "{}: nele, {} está danificado ({}). Compacte de novo.",
    "{} is a folder or .zip of {}, not a table. {} needs a table.": (
        "{} é uma pasta ou .zip de {}, não uma tabela. {} precisa de uma tabela."
    ),
    # Pictures
    "fewer than two classes of {} hold {} different pictures. Add pictures.": (
        "menos de duas classes de {} têm {} imagens diferentes. Acrescente imagens."
    ),
    "{} holds {} pictures, {} MiB at {} × {}, more than {}. Give fewer, or less --size.": (
        "{} tem {} imagens, {} MiB em {} × {}, mais que {}. Dê menos, ou menos --size."
    ),
    "{} is no picture that can be read: {}. Mend it, or move it out.": (
        "{} não é uma imagem que se leia: {}. Conserte, ou tire de lá."
    ),
    "image is no picture that can be read: {}. Send another one.": (
        "image não é uma imagem que se leia: {}. Envie outra."
    ),
    "--size {} is not a side of {} to {} pixels. Give one.": "--size {} não é um lado de {} a {} pixels. Dê um.",
    "neither png, jpeg, webp, bmp nor gif": "nem png, nem jpeg, webp, bmp ou gif",
    "it is empty": "está vazio",
    "it ends too early": "acaba antes do fim",
    "it has more than {} MiB": "tem mais de {} MiB",
    "it unpacks to {} × {} pixels, more than {} million": "abre em {} × {} pixels, mais de {} milhões",
    "damaged: {}": "danificado: {}",
    # Texts and pairs
    "fewer than two classes of {} hold {} different texts. Add texts.": (
        "menos de duas classes de {} têm {} textos diferentes. Acrescente textos."
    ),
    "there is one column, {}; a source and its target need two. Add the other.": (
        "há uma só coluna, {}; uma origem e seu alvo precisam de duas. Acrescente a outra."
    ),
    "'{}' cannot be source and target at once. Name two columns with --source and --target.": (
        "'{}' não pode ser origem e alvo. Diga duas colunas com --source e --target."
    ),
    "two columns of texts that hardly repeat are needed; there are {}. Name them with --source and --target.": (
        "são precisas duas colunas de textos que quase não se repetem; há {}. Diga com --source e --target."
    ),
    "source and target may be any of {}. Name them with --source and --target.": (
        "origem e alvo podem ser quaisquer de {}. Diga com --source e --target."
    ),
    "more than half of the targets are their sources (nothing to learn). Name other columns.": (
        "mais da metade dos alvos é igual à origem (nada a aprender). Diga outras colunas."
    ),
    "all targets are the same text (nothing to learn). Name another --target.": (
        "todos os alvos são o mesmo texto (nada a aprender). Diga outro --target."
    ),
    "there are {} different pairs of at most {} words; a translation needs {}. Add pairs.": (
        "há {} pares diferentes de até {} palavras; uma tradução precisa de {}. Acrescente pares."
    ),
}

FOLDER_LINES = {
    "{} pictures in {} classes": "{} imagens em {} classes",
    "all are {} × {}": "todas são de {} × {}",
    "resized to {} × {}: {}": "redimensionadas para {} × {}: {}",
    "{} of them have colour: all are read {}": "{} delas têm cor: todas são lidas {}",
    "{} pictures resemble another (identical, or resized): they stay on its side of the split": (
        "{} imagens são como outra (iguais, ou redimensionadas): ficam do mesmo lado da divisão"
    ),
    "{} pictures resemble one of another class": "{} imagens são como uma de outra classe",
    "{} pictures are left out: their class has fewer than {} different ones": (
        "{} imagens ficam fora: sua classe tem menos de {} diferentes"
    ),
    "left out: {}": "ficam fora: {}",
    "{} file(s) beside the class folders are left out": "{} arquivo(s) ao lado das pastas de classe ficam fora",
    "{} texts in {} classes": "{} textos em {} classes",
    "{} texts are left out: their class has fewer than {} different ones": (
        "{} textos ficam fora: sua classe tem menos de {} diferentes"
    ),
    "source: '{}'": "origem: '{}'",
    "target: '{}'": "alvo: '{}'",
    "the first line holds no names: it is a pair, the first column is the source": (
        "a primeira linha não tem nomes: é um par, a primeira coluna é a origem"
    ),
    "{} rows without source or target are left out": "{} linhas sem origem ou alvo ficam fora",
    "{} pairs of more than {} words are left out": "{} pares de mais de {} palavras ficam fora",
    "{} pairs that come again are left out": "{} pares que se repetem ficam fora",
    "{} pairs share a text with one that judges, and are left out": (
        "{} pares têm um texto em comum com um que julga, e ficam fora"
    ),
    "{}: {} files in class folders": "{}: {} arquivos em pastas de classe",
}

FOLDER_WORDS = {
    "the middle of each": "o meio de cada uma",
    "the whole of each, with black beside it": "cada uma inteira, com preto ao lado",
    "in colour": "em cores",
    "as grey": "em cinza",
    "class": "classe",
    "files": "arquivos",
    "pictures": "imagens",
    "texts": "textos",
}
