import { randomUUID } from 'node:crypto';

import { NAMES } from '../src/names';
import { registration, reserving } from './server';
import { expect, test } from './support';

const REGISTER = 'eticket.ticket.v1.TicketService/RegisterTicket';
const RESERVE = 'eticket.reservation.v1.ReservationService/ReserveTicket';

for (const name of NAMES) {
  test(`${name}: a page registers and reserves`, async ({ open }) => {
    const eticket = await open(name);
    const ticketId = randomUUID();
    const registered = await eticket.call(REGISTER, registration(ticketId));
    expect(registered).toMatchObject({ message: { ticket: { ticketId, status: 'TICKET_STATUS_AVAILABLE' } } });
    const reserved = await eticket.call(RESERVE, reserving(ticketId, 'alice'));
    expect(reserved).toMatchObject({ message: { reservation: { ticketId, userId: 'alice', status: 'RESERVATION_STATUS_RESERVED' } } });
  });
}
