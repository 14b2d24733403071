// Makes one measured call as an application on Node does: with stubs of the protos, under the service config that ships beside them. Prints how
// the call ended as one line of JSON.
//
//   node stub.js SERVICE_CONFIG HOST:PORT CALL TICKET_ID DEADLINE_MS
//
// CALL is reserve, view or tickets.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const PROTO = path.join(__dirname, '../../../proto');
const FILES = ['query', 'reservation', 'ticket'].map((name) => `eticket/${name}/v1/${name}.proto`);

const definitions = loader.loadSync(
  [...FILES, 'google/rpc/error_details.proto', 'google/rpc/status.proto'],
  { includeDirs: [PROTO, path.join(PROTO, 'third_party')] },
);
const { eticket } = grpc.loadPackageDefinition(definitions);

const CALLS = {
  reserve: (id) => [
    eticket.reservation.v1.ReservationService,
    'ReserveTicket',
    { ticketId: id, userId: 'node', userGrade: 'USER_GRADE_SILVER' },
  ],
  view: (id) => [eticket.query.v1.QueryService, 'GetTicketView', { ticketId: id, wait: 'WAIT_FOR_APPLIED' }],
  tickets: () => [eticket.ticket.v1.TicketService, 'ListTickets', {}],
  first: () => [eticket.reservation.v1.ReservationService, 'CancelReservation', { reservationId: 'none' }],
};

/** Resolves to the error of the call, or null. */
function call([Service, method, request], address, options, deadline) {
  const client = new Service(address, grpc.credentials.createInsecure(), options);
  return new Promise((resolve) => {
    client[method](request, new grpc.Metadata(), { deadline }, resolve);
  });
}

function reasonOf(error) {
  const [details] = error.metadata.get('grpc-status-details-bin');
  if (!details) {
    return '';
  }
  const status = definitions['google.rpc.Status'].deserialize(details);
  const info = status.details.find((detail) => detail.type_url.endsWith('/google.rpc.ErrorInfo'));
  return info ? definitions['google.rpc.ErrorInfo'].deserialize(info.value).reason : '';
}

async function main() {
  if (process.argv.length !== 7) {
    throw new Error('usage: stub.js SERVICE_CONFIG HOST:PORT CALL TICKET_ID DEADLINE_MS');
  }
  const [config, address, name, id, deadline] = process.argv.slice(2);
  const options = { 'grpc.service_config': fs.readFileSync(config, 'utf8') };
  // The first call, which is refused, connects. Only the second one is measured. Clients with the same address and options share
  // their connection.
  const refused = await call(CALLS.first(), address, options, Infinity);
  console.error('first call:', refused && reasonOf(refused));
  const begin = performance.now();
  const error = await call(CALLS[name](id), address, options, Date.now() + Number(deadline));
  const millis = Math.trunc(performance.now() - begin);
  if (error) {
    console.error(error.message);
  }
  console.log(JSON.stringify({ code: error ? error.code : 0, reason: error ? reasonOf(error) : '', millis }));
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
