// What Swagger UI lacks for the keyboard and for screen readers.

type Props = Record<string, unknown>;
type Component = (props: Props) => unknown;
interface System {
  React: { createElement: (type: unknown, props: Props | null, ...children: unknown[]) => unknown };
}

/** Text is inside of a button, where a link cannot be reached. Opening an operation still changes the address. */
const textOfLink = (_: Component, { React }: System) => ({ text }: Props) => React.createElement('span', null, text);

/** Code that scrolls takes the focus, so that the keys scroll it. */
const scrollable = (Original: Component, { React }: System) => (props: Props) =>
  React.createElement(
    'div',
    { className: 'scrollable', ref: (node: HTMLElement | null) => node?.querySelector('pre')?.setAttribute('tabindex', '0') },
    React.createElement(Original, props),
  );

export const accessible = () => ({
  // The document names one server, and the list to choose from has no label.
  components: { ServersContainer: () => null },
  wrapComponents: { DeepLink: textOfLink, SyntaxHighlighter: scrollable },
});
