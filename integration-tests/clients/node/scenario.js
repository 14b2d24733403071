// A scenario of several calls, as an application on Node makes them.
'use strict';

const { randomUUID } = require('node:crypto');
const { setTimeout: pause } = require('node:timers/promises');
const grpc = require('@grpc/grpc-js');
const { eticket, detailsOf } = require('./contract');

/** Registers a ticket, reserves it, is refused, reads the settled view, watches, cancels, and resumes the watch. */
async function scenario(address, options, ticketId, millis) {
  const connect = (Service) => new Service(address, grpc.credentials.createInsecure(), options);
  const tickets = connect(eticket.ticket.v1.TicketService);
  const reservations = connect(eticket.reservation.v1.ReservationService);
  const views = connect(eticket.query.v1.QueryService);
  const deadline = Date.now() + millis;
  const call = (client, method, request, metadata = new grpc.Metadata()) => new Promise((resolve, reject) => {
    client[method](request, metadata, { deadline }, (error, response) => (error ? reject(error) : resolve(response)));
  });

  const seconds = Math.trunc(Date.now() / 1000) + 30 * 24 * 3600;
  await call(tickets, 'RegisterTicket', {
    ticketId,
    title: 'Choir',
    startTime: { seconds },
    endTime: { seconds: seconds + 7200 },
    requestId: randomUUID(),
  });

  // A retry, by the service config or by you, sends the same request with the same requestId, and gets the same response.
  const request = { ticketId, userId: 'node', userGrade: 'USER_GRADE_SILVER', requestId: randomUUID() };
  const { reservation, consistencyToken } = await call(reservations, 'ReserveTicket', request);

  const korean = new grpc.Metadata();
  korean.set('accept-language', 'ko');
  const another = { ...request, userId: 'another', requestId: randomUUID() };
  const refusal = await call(reservations, 'ReserveTicket', another, korean).then(() => ({}), detailsOf);

  const { view } = await call(views, 'GetTicketView', { ticketId, consistencyToken, wait: 'WAIT_FOR_SETTLED' });

  const { token } = await follow(views, ticketId, '', deadline, () => true);
  await call(reservations, 'CancelReservation', { reservationId: reservation.reservationId, requestId: randomUUID() });
  // The watch missed the cancellation; its token makes it continue there.
  const cancelled = (changed) => changed.reservationStatus === 'RESERVATION_STATUS_CANCELLED';
  const { found } = await follow(views, ticketId, token, deadline, cancelled);

  return {
    reason: refusal.ErrorInfo?.reason,
    text: refusal.LocalizedMessage?.message,
    holder: view.userId,
    settled: view.settled,
    changed: found.reservationStatus,
  };
}

/** Watches a ticket until a view is the wanted one, and returns it with the token that continues after it. It survives broken streams. */
async function follow(views, ticketId, resumeToken, deadline, wanted) {
  let token = resumeToken;
  let found;
  for (;;) {
    const stream = views.WatchTicketViews({ ticketIds: [ticketId], resumeToken: token }, { deadline });
    try {
      // Leaving the loop cancels the call.
      for await (const message of stream) {
        if (message.view && wanted(message.view)) {
          found = message.view;
        }
        // Within a snapshot only the last message has a token.
        token = message.resumeToken || token;
        if (found && message.resumeToken) {
          return { found, token };
        }
      }
    } catch (error) {
      if (error.code !== grpc.status.UNAVAILABLE) {
        throw error;
      }
      await pause(1000);
    }
  }
}

module.exports = { scenario };
