"""What the program says of a home as a whole, in Brazilian Portuguese: backup, restore, what the loop puts back."""

from __future__ import annotations

HOME_HELP = {
    # oliveira backup, restore
    "Copies a home into one file, also while it is served: ledger, artifacts, adapters, stages, curves and keys.": (
        "Copia uma pasta de estado num arquivo, também em serviço: registro, artefatos, adaptadores, etapas, curvas e "
        "chaves."
    ),
    "Caches, logs and recorded prompts stay behind. Keys stay good: only their hashes are kept.": (
        "Caches, logs e textos gravados ficam de fora. As chaves seguem válidas: só os seus hashes são guardados."
    ),
    "The file to write, for example home.zip. It must not be there.": (
        "O arquivo a escrever, por exemplo home.zip. Não pode existir ainda."
    ),
    "Also the recorded prompts, which are private.": "Também os textos gravados, que são privados.",
    "No progress; the result alone.": "Sem andamento; só o resultado.",
    "Makes a new home out of a backup, verified file by file; `oliveira up` then serves the same model.": (
        "Faz de uma cópia uma pasta de estado nova, verificada arquivo por arquivo; `oliveira up` serve então o mesmo "
        "modelo."
    ),
    "What `oliveira backup` wrote.": "O que `oliveira backup` escreveu.",
    # oliveira forget
    "Deletes the prompts that a key has sent, and names the artifacts that learnt from them.": (
        "Apaga os textos que uma chave enviou, e diz quais artefatos aprenderam com eles."
    ),
    "An artifact cannot unlearn: serve another one, or retrain. Backups made before still hold the prompts.": (
        "Um artefato não desaprende: sirva outro, ou retreine. Cópias feitas antes ainda têm os textos."
    ),
    "Name or id of the key, as `oliveira keys list` shows it.": (
        "Nome ou id da chave, como `oliveira keys list` a mostra."
    ),
}

HOME_SENTENCES = {
    "{} exists already. Give another name: a backup replaces nothing.": (
        "{} já existe. Dê outro nome: uma cópia não substitui nada."
    ),
    "the champion {} is damaged ({}). `oliveira swap` or `oliveira rollback` to another, then back up.": (
        "o campeão {} está danificado ({}). Mude para outro com `oliveira swap` ou `oliveira rollback`, depois copie."
    ),
    "{} went away while it was copied. Back up once more.": "{} sumiu enquanto era copiado. Copie mais uma vez.",
    "--home {} is no folder. Give a new one.": "--home {} não é uma pasta. Dê uma nova.",
    "--home {} is not empty. Give a new folder: a restore replaces nothing.": (
        "--home {} não está vazia. Dê uma pasta nova: restaurar não substitui nada."
    ),
    "--home {} is in use or not empty. Give a folder that is not there yet.": (
        "--home {} está em uso ou não está vazia. Dê uma pasta que ainda não existe."
    ),
    "{} is not there. Give the file that `oliveira backup` wrote.": (
        "{} não existe. Dê o arquivo que `oliveira backup` escreveu."
    ),
    "{} cannot be read. Give the file that `oliveira backup` wrote.": (
        "{} não pode ser lido. Dê o arquivo que `oliveira backup` escreveu."
    ),
    "{} is no backup of a home. Give the file that `oliveira backup` wrote.": (
        "{} não é a cópia de uma pasta de estado. Dê o arquivo que `oliveira backup` escreveu."
    ),
    "{} is a backup of version {}, this program knows {}. Use the version of Oliveira that wrote it ({}).": (
        "{} é uma cópia da versão {}, este programa conhece a {}. Use a versão de Oliveira que a escreveu ({})."
    ),
    "{} is damaged, or no backup of a home. Use another backup.": (
        "{} está danificado, ou não é a cópia de uma pasta de estado. Use outra cópia."
    ),
    "{} does not hold what its manifest names. Use another backup.": (
        "{} não contém o que o seu manifesto diz. Use outra cópia."
    ),
    "{}: the name {} has no place in a home. Use another backup.": (
        "{}: o nome {} não tem lugar numa pasta de estado. Use outra cópia."
    ),
    "{}: {} is not the file that was written. Use another backup.": (
        "{}: {} não é o arquivo que foi escrito. Use outra cópia."
    ),
    "the ledger in the backup is damaged. Use another backup.": (
        "o livro de registro na cópia está danificado. Use outra cópia."
    ),
    "no space left at {}: the backup needs {} MiB, {} are free. Free some space, or choose another --home.": (
        "não há espaço em {}: a cópia precisa de {} MiB, {} estão livres. Libere espaço, ou escolha outro --home."
    ),
    "key {} is not known. `oliveira keys list` shows the keys.": (
        "a chave {} não é conhecida. `oliveira keys list` mostra as chaves."
    ),
    "a retraining reads the prompts. End it with `oliveira pause`, forget, then `oliveira resume`.": (
        "um retreino está lendo os textos. Termine-o com `oliveira pause`, apague, depois `oliveira resume`."
    ),
    "it was asked for in the home that was backed up.": "foi pedido na pasta de estado que foi copiada.",
}

HOME_LINES = {
    "artifact {} is damaged or gone: it is not in the backup.": (
        "o artefato {} está danificado ou sumiu: não está na cópia."
    ),
    "its texts {} are not here: `oliveira up` asks for them. Copy them there.": (
        "os seus textos {} não estão aqui: `oliveira up` pede por eles. Copie-os para lá."
    ),
    "{} prompts of {} are deleted.": "{} textos de {} foram apagados.",
    "{} requests with their answers and truths are deleted.": "{} pedidos com respostas e verdades foram apagados.",
    "{} prompts of an older version do not say whose they are, and stay.": (
        "{} textos de uma versão antiga não dizem de quem são, e ficam."
    ),
    "{} learnt from them.": "{} aprendeu com eles.",
    "{} may have learnt from them: it does not say.": "{} pode ter aprendido com eles: não diz.",
    "key {} is still good. `oliveira keys revoke {}` ends it.": (
        "a chave {} segue válida. `oliveira keys revoke {}` encerra-a."
    ),
    # What is recorded
    "Keep the {} that clients send, in home {}? Drift and retraining need them; `oliveira forget` deletes a key's.": (
        "Guardar os {} que os clientes enviam, em {}? Deriva e retreino precisam deles; `oliveira forget` apaga os de "
        "uma chave."
    ),
    "no {} are kept: no drift is seen and nothing is learnt from them": (
        "os {} não são guardados: não se vê deriva e nada se aprende com eles"
    ),
    "{} are kept, at most {} MiB": "os {} são guardados, no máximo {} MiB",
    "{} and {} days": "{} e {} dias",
    # A champion that the loop puts back
    "the champion {} was put back to {}: {}.": "o campeão {} voltou a {}: {}.",
    "the server could not take it: {}": "o servidor não pôde recebê-lo: {}",
    "its engine died {} times in its first minute": "o seu motor morreu {} vezes no primeiro minuto",
    "{} of its first {} answers failed": "{} das suas primeiras {} respostas falharam",
    "the model that it started from was put back.": "o modelo de que partiu foi retirado.",
    "it was served before and put back: it is not promoted again by itself": (
        "já foi servido e retirado: não é promovido outra vez sozinho"
    ),
    "{}: {} files, champion {}": "{}: {} arquivos, campeão {}",
}

HOME_WORDS = {
    "backup": "cópia",
    "restore": "restauro",
    "put back": "retirado",
    "recording": "gravação",
    "none yet": "nenhum ainda",
}
