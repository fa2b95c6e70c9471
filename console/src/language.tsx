// The chosen language, its sentences and its way to write numbers, for every component below.

import { createContext, type ComponentChildren } from "preact";
import { useContext, useEffect, useMemo, useState } from "preact/hooks";
import { formats, type Formats } from "./format";
import { firstLanguage, type Language, LANGUAGES, rememberLanguage, type Text } from "./text";

interface Chosen {
  language: Language;
  text: Text;
  format: Formats;
  choose: (language: Language) => void;
}

const Context = createContext<Chosen | null>(null);

export function Speak({ children }: { children: ComponentChildren }) {
  const [language, setLanguage] = useState(firstLanguage);
  useEffect(() => {
    document.documentElement.lang = language;
  }, [language]);
  const chosen = useMemo<Chosen>(
    () => ({
      language,
      text: LANGUAGES[language].text,
      format: formats(language, LANGUAGES[language].text.yes, LANGUAGES[language].text.no),
      choose: (next) => {
        rememberLanguage(next);
        setLanguage(next);
      },
    }),
    [language],
  );
  return <Context.Provider value={chosen}>{children}</Context.Provider>;
}

export function useLanguage(): Chosen {
  const chosen = useContext(Context);
  if (!chosen) throw new Error("useLanguage outside of <Speak>");
  return chosen;
}
