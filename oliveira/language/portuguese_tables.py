"""What the program says of a user's own table, in Brazilian Portuguese: refusals, and what was guessed."""

from __future__ import annotations

TABLE_SENTENCES = {
    "{}{} is no field of a request. {}": "{}{} não é um campo de um pedido. {}",
    "{}[{}] is more than {} standard deviations from what the model was trained on. Correct it, or train on such "
    "values.": (
        "{}[{}] está a mais de {} desvios-padrão daquilo em que o modelo foi treinado. Corrija, ou treine com tais "
        "valores."
    ),
    "--time '{}' is a column of numbers that are neither years nor seconds or milliseconds since 1970. Name another, "
    "or leave it out.": (
        "--time '{}' é uma coluna de números que não são anos nem segundos ou milissegundos desde 1970. Diga outra, ou "
        "deixe sem."
    ),
    "'{}' goes from {} to {}; a model counts in 32-bit floats, from {} to {}. Give it in another unit.": (
        "'{}' vai de {} a {}; um modelo conta em floats de 32 bits, de {} a {}. Dê em outra unidade."
    ),
    "{} needs {} to be read. Install it: pip install 'oliveira[tables]', or save it as .csv.": (
        "{} precisa de {} para ser lido. Instale: pip install 'oliveira[tables]', ou salve como .csv."
    ),
    "--target '{}' is a column of times, no label. Name another.": (
        "--target '{}' é uma coluna de tempos, não um rótulo. Diga outra."
    ),
    "--target '{}' is not a column of numbers ({}). {}": "--target '{}' não é uma coluna de números ({}). {}",
    "--time '{}' is not a column of times ({}). Name another, or leave it out.": (
        "--time '{}' não é uma coluna de tempos ({}). Diga outra, ou deixe sem."
    ),
    "--{} has no effect on {}: only a table of your own takes it. Leave it out.": (
        "--{} não tem efeito em {}: só uma tabela sua o aceita. Deixe sem."
    ),
    "--{} has no effect on {}{}{}. Leave it out.": "--{} não tem efeito em {}{}{}. Deixe sem.",
    "--group '{}' has {} values, not 1 to {}. Name another.": "--group '{}' tem {} valores, não 1 a {}. Diga outra.",
    "no value of --group '{}' has a series with regular steps. Name another.": (
        "nenhum valor de --group '{}' tem uma série de passos regulares. Diga outra."
    ),
    "--features '{}' has another part already. Leave it out.": "--features '{}' já tem outro papel. Deixe sem.",
    "--features '{}' is not a column of numbers ({}). Name another.": (
        "--features '{}' não é uma coluna de números ({}). Diga outra."
    ),
    "--known-future needs a history of at least the horizon, {}; it is {}. Give --history.": (
        "--known-future precisa de um histórico de pelo menos o horizonte, {}; é de {}. Dê --history."
    ),
    "--{} {} is not a whole number from 1 to {}. Give one.": "--{} {} não é um inteiro de 1 a {}. Dê um.",
    "all values of '{}' are missing. Name another --target.": "todos os valores de '{}' faltam. Diga outro --target.",
    "fewer than two classes of '{}' have {} different texts in '{}'. Add texts.": (
        "menos de duas classes de '{}' têm {} textos diferentes em '{}'. Acrescente textos."
    ),
    "no column beside '{}' holds text. Name it with --text.": "nenhuma coluna além de '{}' tem texto. Diga com --text.",
    "no column holds labels (few values that come again). Name it with --target.": (
        "nenhuma coluna tem rótulos (poucos valores que se repetem). Diga com --target."
    ),
    "the label may be any of {}. Name it with --target.": "o rótulo pode ser qualquer uma de {}. Diga com --target.",
    "there is one column, '{}'; a text and its label need two. Add the other.": (
        "há uma só coluna, '{}'; um texto e seu rótulo precisam de duas. Acrescente a outra."
    ),
    "{} cannot be read ({}). Allow it (chmod u+r), or give another file.": (
        "{} não pode ser lido ({}). Permita (chmod u+r), ou dê outro arquivo."
    ),
    "{} cannot be read as a table: a quotation mark is not closed. Mend it.": (
        "{} não pode ser lido como tabela: há aspas que não fecham. Corrija."
    ),
    "'{}' cannot be text and label at once. Name two columns with --text and --target.": (
        "'{}' não pode ser texto e rótulo. Diga duas colunas com --text e --target."
    ),
    "{} different times with a value make no series. Give at least two, or --time.": (
        "{} tempos diferentes com valor não fazem uma série. Dê pelo menos dois, ou --time."
    ),
    "{} does not exist. Give the path of a file or folder of yours.": (
        "{} não existe. Dê o caminho de um arquivo ou pasta sua."
    ),
    "{} gives {} {}; a history of {} and a horizon of {} need {}. Give more rows, or less --history or --horizon.": (
        "{} dá {} {}; um histórico de {} e um horizonte de {} precisam de {}. Dê mais linhas, ou menos --history ou "
        "--horizon."
    ),
    "{} has names of columns and no row below them. Give a table with rows.": (
        "{} tem nomes de colunas e nenhuma linha abaixo. Dê uma tabela com linhas."
    ),
    "'{}' has the same value in every row ({}nothing to learn). Name another --target.": (
        "'{}' tem o mesmo valor em todas as linhas ({}nada a aprender). Diga outro --target."
    ),
    "{} has {} MiB, more than {}. Give a part of it.": "{} tem {} MiB, mais que {}. Dê uma parte.",
    "'{}' has {} classes, more than {}. Name another --target.": (
        "'{}' tem {} classes, mais que {}. Diga outro --target."
    ),
    "{} is a document of an older Office. Save it as .xlsx or .csv.": (
        "{} é um documento de um Office antigo. Salve como .xlsx ou .csv."
    ),
    "{} is a folder, not a table. Give one file of it.": "{} é uma pasta, não uma tabela. Dê um arquivo dela.",
    "{} is a symbolic link that leads to itself. Give the path of a file or folder of yours.": (
        "{} é um link simbólico que leva a si mesmo. Dê o caminho de um arquivo ou pasta sua."
    ),
    "{} is empty. Give a table with a line of names and rows below it.": (
        "{} está vazio. Dê uma tabela com uma linha de nomes e linhas abaixo."
    ),
    "{} is not a file (a pipe, socket or device). Save what it gives as a file.": (
        "{} não é um arquivo (é pipe, socket ou dispositivo). Salve em um arquivo o que sai dele."
    ),
    "{} is not a table (it holds NUL bytes). Give a .csv, .tsv, .xlsx or .parquet file.": (
        "{} não é uma tabela (tem bytes NUL). Dê um arquivo .csv, .tsv, .xlsx ou .parquet."
    ),
    "{} is not a table (it holds control characters). Give a .csv, .tsv, .xlsx or .parquet file.": (
        "{} não é uma tabela (tem caracteres de controle). Dê um arquivo .csv, .tsv, .xlsx ou .parquet."
    ),
    "{} is not a whole .xlsx file ({}). Save it again.": "{} não é um arquivo .xlsx inteiro ({}). Salve de novo.",
    "{} is not a whole Parquet file ({}). Give another one.": "{} não é um arquivo Parquet inteiro ({}). Dê outro.",
    "{} names no file. Write {}{}FILE.": "{} não nomeia um arquivo. Escreva {}{}ARQUIVO.",
    "{} unpacks to {} MiB, more than {}. Give a part of it.": "{} descompacta em {} MiB, mais que {}. Dê uma parte.",
    "{} values on {} {}: more than half would be invented. Give a series with regular steps, or another --time.": (
        "{} valores em {} {}: mais da metade seria inventada. Dê uma série de passos regulares, ou outro --time."
    ),
    "{} '{}' is no column. There are: {}.": "{} '{}' não é uma coluna. Há: {}.",
    "{}: line {} has {} fields where the lines before have {}. Quote a text that holds the delimiter.": (
        "{}: a linha {} tem {} campos e as anteriores têm {}. Ponha entre aspas um texto que tem o separador."
    ),
    "{}: line {} is longer than {} MB. Cut it into several lines.": (
        "{}: a linha {} passa de {} MB. Divida em várias linhas."
    ),
    "{}{}FILE is not known. Data of your own can be {}.": "{}{}FILE não é conhecido. Dados seus podem ser {}.",
    "no column holds numbers: {}. A forecast needs one.": (
        "nenhuma coluna tem números: {}. Uma previsão precisa de uma."
    ),
    "columns of numbers: {}. Name one with --target.": "colunas de números: {}. Diga uma com --target.",
}

TABLE_LINES = {
    "fits, once {} says which column": "serve, quando {} disser qual coluna",
    "Did you mean {}?": "Seria {}?",
    "There are: {}.": "Há: {}.",
    "{}, columns divided by {}": "{}, colunas separadas por {}",
    "{}, one column": "{}, uma coluna",
    "only the first sheet, {}, is read; {} more are not": "só a primeira planilha, {}, é lida; outras {} não",
    "the first line holds no names: {} columns are numbered": (
        "a primeira linha não tem nomes: {} colunas são numeradas"
    ),
    "{} lines that repeat the names are left out": "{} linhas que repetem os nomes ficam fora",
    "{} columns without a name of their own are numbered": "{} colunas sem nome próprio são numeradas",
    "{} rows without any value are left out": "{} linhas sem valor algum ficam fora",
    "{} values of '{}' are no times and count as missing": "{} valores de '{}' não são tempos e contam como faltantes",
    "{} values of '{}' are no numbers and count as missing": (
        "{} valores de '{}' não são números e contam como faltantes"
    ),
    "'{}': times read as {}": "'{}': tempos lidos como {}",
    "'{}': offsets from UTC are left out, times are as the clock showed them": (
        "'{}': os fusos ficam fora, os tempos são os do relógio"
    ),
    "'{}': read as {}": "'{}': lido como {}",
    "'{}' looks like times that are not understood: without them steps are counted. Write them as 2024-01-31 10:00": (
        "'{}' parece de tempos que não são entendidos: sem eles contam-se passos. Escreva como 2024-01-31 10:00"
    ),
    "it cannot be drawn ({})": "não pode ser desenhado ({})",
    "'{}': decimal comma": "'{}': vírgula decimal",
    "'{}': decimal point": "'{}': ponto decimal",
    "'{}': nothing tells whether its points divide thousands; they are read as decimal": (
        "'{}': nada diz se seus pontos separam milhares; são lidos como decimais"
    ),
    "'{}': nothing tells whether its commas divide thousands; they are read as decimal": (
        "'{}': nada diz se suas vírgulas separam milhares; são lidas como decimais"
    ),
    "'{}': nothing tells whether its commas are decimal; they are read as dividing thousands": (
        "'{}': nada diz se suas vírgulas são decimais; são lidas como separadores de milhares"
    ),
    "target: '{}', the only column of numbers": "alvo: '{}', a única coluna de números",
    "time: '{}'": "tempo: '{}'",
    "hours of the day: '{}'": "horas do dia: '{}'",
    "text: '{}'": "texto: '{}'",
    "label: '{}', {} classes": "rótulo: '{}', {} classes",
    "{} rows without text or label are left out": "{} linhas sem texto ou rótulo ficam fora",
    "{} rows are left out: their class has fewer than {} different texts": (
        "{} linhas ficam fora: sua classe tem menos de {} textos diferentes"
    ),
    "no column of times: steps are counted": "nenhuma coluna de tempos: os passos são contados",
    "one value every {}": "um valor a cada {}",
    "rows were not in the order of time: sorted": "as linhas não estavam na ordem do tempo: ordenadas",
    "{} rows with a time that another has: their mean is taken": ("{} linhas com o tempo de outra: vale a média delas"),
    "{} times lie between two steps of one {}: each goes to the nearest": (
        "{} tempos caem entre dois passos de um {}: cada um vai ao mais próximo"
    ),
    "{} gaps are filled with the value of {} {} before; nothing is judged on them": (
        "{} lacunas recebem o valor de {} {} antes; nada é julgado nelas"
    ),
    "{} missing values of '{}' are those of the step before": "{} valores que faltam de '{}' são os do passo anterior",
    "{} series by '{}', one value every {}": "{} séries por '{}', um valor a cada {}",
    "{} series are left out: they have no such steps": "{} séries ficam fora: não têm tais passos",
    "{} gaps are filled from a season before; nothing is judged on them": (
        "{} lacunas recebem o valor de uma estação antes; nada é julgado nelas"
    ),
    "the last {} {} in, the next {} out": "entram os últimos {} {}, saem os próximos {}",
    "Nothing of it leaves this machine.": "Nada disso sai desta máquina.",
    # oliveira data
    "{}: {} rows": "{}: {} linhas",
    "{} rows": "{} linhas",
    "{} characters": "{} caracteres",
    "'{}' has no value at all": "'{}' não tem valor algum",
    "'{}' has the same value in every row": "'{}' tem o mesmo valor em todas as linhas",
    "{} of {} values of '{}' are missing": "faltam {} de {} valores de '{}'",
    "{} texts repeat another: they stay on its side of the split": (
        "{} textos repetem outro: ficam do mesmo lado da divisão"
    ),
    "{} texts have several labels": "{} textos têm vários rótulos",
    "{} classes are rare: less than a twentieth of an equal share": (
        "{} classes são raras: menos de um vigésimo de uma parte igual"
    ),
    "nothing is wrong with it": "não há nada de errado",
}

TABLE_WORDS = {
    "seconds since 1970, UTC": "segundos desde 1970, UTC",
    "milliseconds since 1970, UTC": "milissegundos desde 1970, UTC",
    "UTF-8 with damaged letters": "UTF-8 com letras danificadas",
    "does not fit": "não serve",
    "column": "coluna",
    "type": "tipo",
    "missing": "faltam",
    "distinct": "distintos",
    "smallest": "menor",
    "largest": "maior",
    "time": "tempo",
    "number": "número",
    "category": "categoria",
    "text": "texto",
    "comma": "vírgula",
    "semicolon": "ponto e vírgula",
    "tab": "tabulação",
    "bar": "barra",
    "day/month/year": "dia/mês/ano",
    "month/day/year": "mês/dia/ano",
    "month/year": "mês/ano",
    "one class: ": "uma só classe: ",
    "minute": "minuto",
    "minutes": "minutos",
    "hour": "hora",
    "hours": "horas",
    "day": "dia",
    "days": "dias",
    "week": "semana",
    "weeks": "semanas",
    "month": "mês",
    "months": "meses",
    "quarter": "trimestre",
    "quarters": "trimestres",
    "year": "ano",
    "years": "anos",
    "step": "passo",
    "steps": "passos",
}
