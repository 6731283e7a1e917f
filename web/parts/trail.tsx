/** The way back to all. */
export function Trail({ name }: { readonly name: string }) {
  return (
    <nav class="trail" aria-label="Where you are">
      <a href="#/">Disks</a> <span aria-hidden="true">/</span> <span aria-current="page">{name}</span>
    </nav>
  );
}
