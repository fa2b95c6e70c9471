// The gate writes its reasons in English (oliveira/lifecycle/gate.py); here they are in Portuguese. An unknown one stays as it is.

import type { Language } from "./text";

const PORTUGUESE: [RegExp, string][] = [
  [/^every number is within its threshold$/, "todos os números estão dentro dos limites"],
  [/^a score of the challenger is not a finite number$/, "uma nota do desafiante não é um número finito"],
  [/^the smoke prompts failed$/, "as frases de teste falharam"],
  [/^gain (\S+) bits per byte on the new domain is below (\S+)$/, "o ganho de $1 bits por byte no domínio novo fica abaixo de $2"],
  [/^forgetting (\S+) of the base domain is above (\S+)$/, "o esquecimento de $1 do domínio base passa de $2"],
  [
    /^the error of the answers whose truth came back fell by (\S+), less than (\S+)$/,
    "o erro das respostas cuja verdade voltou caiu $1, menos que $2",
  ],
  [
    /^the error of the answers whose truth came back rose by (\S+) and should fall by (\S+)$/,
    "o erro das respostas cuja verdade voltou subiu $1 e devia cair $2",
  ],
  [/^(.+) on the known data is (\S+) worse, more than (\S+)$/, "$1 nos dados conhecidos ficou $2 pior, mais que $3"],
  [/^latency (\S+) × the champion's is above (\S+)$/, "a latência de $1 × a do campeão passa de $2"],
  [
    /^latency (\S+) × the champion's \((\S+) to (\S+)\) is above (\S+)$/,
    "a latência de $1 × a do campeão ($2 a $3) passa de $4",
  ],
  [/^first model of this world$/, "primeiro modelo deste mundo"],
  [/^the world or its text changed$/, "o mundo ou o seu texto mudou"],
  [/^rejected by hand$/, "rejeitado por uma pessoa"],
  [/^by hand$/, "por uma pessoa"],
  [/^(swap|approve) by (.+)$/, "pedido de $2"],
];

export function told(reason: string, language: Language): string {
  const found = language === "pt-BR" && PORTUGUESE.find(([pattern]) => pattern.test(reason));
  return found ? reason.replace(found[0], found[1]).replace(/(\d)\.(\d)/g, "$1,$2") : reason;
}
