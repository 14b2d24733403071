// connect-web, with the transport of gRPC-Web or of Connect.

import type { DescMessage, DescMethodServerStreaming, DescMethodUnary, MessageInitShape, MessageShape } from '@bufbuild/protobuf';
import { Code, ConnectError, type Transport } from '@connectrpc/connect';

import { ErrorInfoSchema, LocalizedMessageSchema } from './gen/google/rpc/error_details_pb';
import { Failure, type Answer, type Client, type Options } from './client';

export class Connect implements Client {
  constructor(private readonly transport: Transport) {}

  async unary<I extends DescMessage, O extends DescMessage>(method: DescMethodUnary<I, O>, request: MessageShape<I>, options: Options): Promise<Answer<O>> {
    try {
      // What `createClient` calls. It gives the headers of the response without a callback.
      const { message, header } = await this.transport.unary(method, options.signal, options.timeoutMs, options.headers, request as MessageInitShape<I>);
      return { message, headers: Object.fromEntries(header) };
    } catch (error) {
      throw failure(error);
    }
  }

  async *stream<I extends DescMessage, O extends DescMessage>(method: DescMethodServerStreaming<I, O>, request: MessageShape<I>, options: Options) {
    const one = async function* () {
      yield request as MessageInitShape<I>;
    };
    try {
      const { message } = await this.transport.stream(method, options.signal, options.timeoutMs, options.headers, one());
      yield* message;
    } catch (error) {
      if (!options.signal?.aborted) throw failure(error);
    }
  }
}

function failure(cause: unknown): Failure {
  const error = ConnectError.from(cause);
  const details = [...error.findDetails(ErrorInfoSchema), ...error.findDetails(LocalizedMessageSchema)];
  return new Failure(Code[error.code], error.rawMessage, details);
}
