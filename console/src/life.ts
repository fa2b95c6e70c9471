// The life that this tab shows, where the server has several; null is the one that the server takes for it.

const STORED = "oliveira-life";

export function chosenLife(): string | null {
  return sessionStorage.getItem(STORED);
}

/** Everything on the page is of one life: it begins anew. */
export function chooseLife(name: string): void {
  sessionStorage.setItem(STORED, name);
  location.reload();
}

/** True when there was one to forget: the server does not know it any more. */
export function forgetLife(): boolean {
  const known = chosenLife() !== null;
  sessionStorage.removeItem(STORED);
  return known;
}

/** The path for the chosen life. */
export function ofLife(path: string): string {
  const name = chosenLife();
  return name === null ? path : `${path}${path.includes("?") ? "&" : "?"}model=${encodeURIComponent(name)}`;
}
