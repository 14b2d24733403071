// What went wrong with a call, in the words of the server where it has any.

import { Code, ConnectError } from '@connectrpc/connect';

import { BadRequestSchema, ErrorInfoSchema, LocalizedMessageSchema, RetryInfoSchema } from '../gen/google/rpc/error_details_pb';

export interface FieldProblem {
  field: string;
  text: string;
}

export interface Problem {
  code: Code;
  /** The name of an `eticket.error.v1.ErrorReason`; empty if the error does not come from eTicket. */
  reason: string;
  /** Empty if the server gave no text for people: then the page shows its own text for the code. */
  text: string;
  fields: FieldProblem[];
  /** How long to wait before the next try, where a retry makes sense. */
  retryAfterMs?: number;
  metadata: Record<string, string>;
}

const transient = [Code.Unavailable, Code.DeadlineExceeded, Code.ResourceExhausted];

export function problemOf(cause: unknown): Problem {
  const error = ConnectError.from(cause, Code.Unavailable);
  const info = error.findDetails(ErrorInfoSchema).find((detail) => detail.domain === 'eticket');
  const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
  const fields = error.findDetails(BadRequestSchema).flatMap((detail) => detail.fieldViolations);
  return {
    code: networkFailure(cause, error) ? Code.Unavailable : error.code,
    reason: info?.reason ?? '',
    text: error.findDetails(LocalizedMessageSchema)[0]?.message ?? '',
    fields: fields.map((each) => ({ field: each.field, text: each.localizedMessage?.message || each.description })),
    retryAfterMs: delay ? Number(delay.seconds) * 1000 + delay.nanos / 1e6 : undefined,
    metadata: info?.metadata ?? {},
  };
}

/** True if the same command with the same `request_id` may succeed later. */
export function mayRetry(problem: Problem): boolean {
  return problem.retryAfterMs !== undefined || transient.includes(problem.code);
}

// Browsers report an unreachable server as a TypeError of `fetch`, which the client maps to `UNKNOWN`.
function networkFailure(cause: unknown, error: ConnectError): boolean {
  return cause instanceof TypeError || error.cause instanceof TypeError;
}
