// What the tests need from a client library, and the errors of all libraries in one form.

import { fromBinary, type DescMessage, type DescMethodServerStreaming, type DescMethodUnary, type Message, type MessageShape } from '@bufbuild/protobuf';
import { anyUnpack } from '@bufbuild/protobuf/wkt';

import { ErrorInfoSchema, LocalizedMessageSchema } from './gen/google/rpc/error_details_pb';
import { StatusSchema } from './gen/google/rpc/status_pb';

export interface Options {
  /** Request metadata. */
  headers?: Record<string, string>;
  timeoutMs?: number;
  signal?: AbortSignal;
}

export interface Answer<O extends DescMessage> {
  message: MessageShape<O>;
  /** Response metadata that the page may read. */
  headers: Record<string, string>;
}

export interface Client {
  unary<I extends DescMessage, O extends DescMessage>(method: DescMethodUnary<I, O>, request: MessageShape<I>, options: Options): Promise<Answer<O>>;
  /** Ends without an error if the signal is aborted. */
  stream<I extends DescMessage, O extends DescMessage>(method: DescMethodServerStreaming<I, O>, request: MessageShape<I>, options: Options): AsyncIterable<MessageShape<O>>;
}

/** An error of a call, as the library reports it. */
export class Failure extends Error {
  readonly reason?: string;
  readonly metadata?: Record<string, string>;
  /** The text for people. */
  readonly text?: string;

  constructor(readonly code: string, message: string, details: Message[]) {
    super(message);
    for (const detail of details) {
      if (is(detail, ErrorInfoSchema)) {
        this.reason = detail.reason;
        this.metadata = { ...detail.metadata };
      } else if (is(detail, LocalizedMessageSchema)) {
        this.text = detail.message;
      }
    }
  }
}

/** Decodes the metadata `grpc-status-details-bin`. */
export function detailsOf(encoded: string | undefined): Message[] {
  if (!encoded) return [];
  // `atob` also takes base64 without padding, as gRPC writes it.
  const bytes = Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
  const { details } = fromBinary(StatusSchema, bytes);
  const known = [ErrorInfoSchema, LocalizedMessageSchema];
  return details.flatMap((detail) => known.map((schema) => anyUnpack(detail, schema)).filter((message) => message !== undefined));
}

function is<D extends DescMessage>(message: Message, schema: D): message is MessageShape<D> {
  return message.$typeName === schema.typeName;
}
