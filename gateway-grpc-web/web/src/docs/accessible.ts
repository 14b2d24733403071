// What Swagger UI lacks for the keyboard and for screen readers.

type Props = Record<string, unknown>;
type Component = (props: Props) => unknown;
interface System {
  React: { createElement: (type: unknown, props: Props | null, ...children: unknown[]) => unknown };
}

/** Completes the elements that a component renders. */
const completed = (complete: (element: HTMLElement, props: Props) => void) => (Original: Component, { React }: System) => (props: Props) =>
  React.createElement(
    'div',
    { className: 'completed', ref: (element: HTMLElement | null) => element && complete(element, props) },
    React.createElement(Original, props),
  );

/** Code that scrolls takes the focus, so that the keys scroll it. */
const scrollable = completed((element) => element.querySelector('pre')?.setAttribute('tabindex', '0'));

/** The name of a field is in another column of the table. */
const labelled = (label: (props: Props) => unknown) =>
  completed((element, props) => {
    for (const field of element.querySelectorAll('input, select, textarea')) field.setAttribute('aria-label', String(label(props)));
  });

/** The names that Swagger UI gives to these buttons lack what they show. */
const dialog = completed((element) => {
  element.querySelector('.close-modal')?.setAttribute('aria-label', 'Close');
  for (const button of element.querySelectorAll('.auth-btn-wrapper button')) button.removeAttribute('aria-label');
});

/** Text is inside of a button, where a link cannot be reached. Opening an operation still changes the address. */
const textOfLink = (_: Component, { React }: System) => ({ text }: Props) => React.createElement('span', null, text);

export const accessible = () => ({
  // The document names one server, and the list to choose from has no label.
  components: { ServersContainer: () => null },
  wrapComponents: {
    DeepLink: textOfLink,
    auths: dialog,
    authorizationPopup: dialog,
    JsonSchemaForm: labelled(({ description }) => description),
    RequestBodyEditor: labelled(() => 'Request body'),
    SyntaxHighlighter: scrollable,
  },
});
