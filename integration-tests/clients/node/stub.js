// Makes one measured call as an application on Node does: with stubs of the protos, under the service config that ships beside them. Prints how
// the call ended as one line of JSON. Or runs a scenario of several calls, and prints what it has seen.
//
//   node stub.js SERVICE_CONFIG HOST:PORT CALL TICKET_ID DEADLINE_MS
//
// CALL is reserve, view, tickets or scenario.
'use strict';

const fs = require('node:fs');
const grpc = require('@grpc/grpc-js');
const { eticket, detailsOf } = require('./contract');
const { scenario } = require('./scenario');
const { Session } = require('./session');

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
  return detailsOf(error).ErrorInfo?.reason ?? '';
}

async function main() {
  if (process.argv.length !== 7) {
    throw new Error('usage: stub.js SERVICE_CONFIG HOST:PORT CALL TICKET_ID DEADLINE_MS');
  }
  const [config, address, name, id, deadline] = process.argv.slice(2);
  const session = new Session();
  const options = { 'grpc.service_config': fs.readFileSync(config, 'utf8'), interceptors: [session.interceptor] };
  if (name === 'scenario') {
    console.log(JSON.stringify(await scenario(address, options, id, Number(deadline))));
    return;
  }
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
