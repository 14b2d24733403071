// The types of the package describe its main file only, which is for Node.js.
declare module 'swagger-ui-dist/swagger-ui-es-bundle.js' {
  export { SwaggerUIBundle as default } from 'swagger-ui-dist';
}

interface Window {
  trustedTypes?: { createPolicy(name: string, rules: { createHTML: (html: string) => string }): unknown };
}
