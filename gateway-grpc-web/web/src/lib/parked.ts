// What is inside a parked event.

import { fromBinary, toJsonString } from '@bufbuild/protobuf';
import type { DescMessage } from '@bufbuild/protobuf';
import { PriceEventSchema, ReservationEventSchema, TicketEventSchema } from '../gen/eticket/event/v1/event_pb';
import type { ParkedEvent } from '../gen/eticket/operations/v1/operations_pb';

// The subject alone decides: `eticket.v1.ticket.ID`, `eticket.v1.reservation.ID.RESERVATION`, `eticket.v1.price.ID`.
const schemas: Record<string, DescMessage> = { ticket: TicketEventSchema, reservation: ReservationEventSchema, price: PriceEventSchema };

/** The body as indented JSON; undefined if it is no event of its subject, as that of a damaged message. */
export function contentOf({ subject, body }: ParkedEvent): string | undefined {
  const [, aggregate = ''] = /^eticket\.v1\.([a-z]+)\./.exec(subject) ?? [];
  const schema = schemas[aggregate];
  if (!schema) return undefined;
  try {
    return toJsonString(schema, fromBinary(schema, body), { prettySpaces: 2 });
  } catch {
    return undefined;
  }
}

/** The first bytes as hexadecimal digits, in groups of two digits. */
export const bytesOf = ({ body }: ParkedEvent, most = 512) =>
  Array.from(body.subarray(0, most), (byte) => byte.toString(16).padStart(2, '0')).join(' ') + (body.length > most ? ' …' : '');
