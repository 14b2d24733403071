// The contract, loaded from the protos while the program runs.
'use strict';

const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const PROTO = path.join(__dirname, '../../../proto');
const FILES = ['query', 'reservation', 'ticket'].map((name) => `eticket/${name}/v1/${name}.proto`);

// `longs` and `enums` as text, as in JSON. Their defaults are objects and numbers.
const definitions = loader.loadSync(
  [...FILES, 'google/rpc/error_details.proto', 'google/rpc/status.proto'],
  { includeDirs: [PROTO, path.join(PROTO, 'third_party')], longs: String, enums: String, defaults: true },
);

/** Returns the details of an error by the name of their message, such as `ErrorInfo`. */
function detailsOf(error) {
  const [encoded] = error.metadata.get('grpc-status-details-bin');
  const details = encoded ? definitions['google.rpc.Status'].deserialize(encoded).details : [];
  return Object.fromEntries(details.map(({ type_url: type, value }) => {
    const name = type.slice(type.lastIndexOf('/') + 1);
    return [name.slice(name.lastIndexOf('.') + 1), definitions[name]?.deserialize(value)];
  }));
}

module.exports = { ...grpc.loadPackageDefinition(definitions), detailsOf };
