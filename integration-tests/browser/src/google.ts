// Google's grpc-web. Its stubs wrap a `MethodDescriptor` of each method, which is made here from the descriptors of protobuf-es.

import { fromBinary, toBinary, type DescMessage, type DescMethod, type DescMethodServerStreaming, type DescMethodUnary, type MessageShape } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import { GrpcWebClientBase, MethodDescriptor, MethodType, type Metadata, type RpcError } from 'grpc-web';

import { detailsOf, Failure, type Answer, type Client, type Options } from './client';

export class Google implements Client {
  readonly #base: GrpcWebClientBase;

  constructor(private readonly address: string, format: 'binary' | 'text') {
    this.#base = new GrpcWebClientBase({ format });
  }

  unary<I extends DescMessage, O extends DescMessage>(method: DescMethodUnary<I, O>, request: MessageShape<I>, options: Options): Promise<Answer<O>> {
    return new Promise((resolve, reject) => {
      let headers: Record<string, string> = {};
      const answered = (error: RpcError | null, message: MessageShape<O>) => (error ? reject(failure(error)) : resolve({ message, headers }));
      const call = this.#base.rpcCall(this.#path(method), request, metadata(options), descriptor(method, MethodType.UNARY), answered);
      call.on('metadata', (received) => {
        headers = received;
      });
      options.signal?.addEventListener('abort', () => {
        call.cancel();
        // A cancelled call reports nothing.
        reject(new Failure('Canceled', 'the page has cancelled the call', []));
      });
    });
  }

  async *stream<I extends DescMessage, O extends DescMessage>(method: DescMethodServerStreaming<I, O>, request: MessageShape<I>, options: Options) {
    const call = this.#base.serverStreaming(this.#path(method), request, metadata(options), descriptor(method, MethodType.SERVER_STREAMING));
    const received = new ReadableStream<MessageShape<O>>({
      start: (controller) => {
        let open = true;
        const end = (error?: Failure) => {
          if (!open) return;
          open = false;
          if (error) controller.error(error);
          else controller.close();
        };
        call.on('data', (message) => controller.enqueue(message));
        call.on('error', (error) => end(failure(error)));
        call.on('end', () => end());
        options.signal?.addEventListener('abort', () => {
          call.cancel();
          end();
        });
      },
    });
    const reader = received.getReader();
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      yield next.value;
    }
  }

  #path(method: DescMethod) {
    return this.address + nameOf(method);
  }
}

function nameOf(method: DescMethod) {
  return `/${method.parent.typeName}/${method.name}`;
}

function descriptor<I extends DescMessage, O extends DescMessage>(method: DescMethod & { input: I; output: O }, type: string) {
  const encode = (message: MessageShape<I>) => toBinary(method.input, message);
  const decode = (bytes: Uint8Array) => fromBinary(method.output, bytes);
  // The constructors are for generated messages; nothing calls them.
  return new MethodDescriptor<MessageShape<I>, MessageShape<O>>(nameOf(method), type, Object as never, Object as never, encode, decode);
}

function metadata({ headers, timeoutMs }: Options): Metadata {
  return { ...headers, ...(timeoutMs === undefined ? {} : { deadline: String(Date.now() + timeoutMs) }) };
}

function failure(error: RpcError): Failure {
  const { code, message, metadata } = error;
  return new Failure(Code[code as number] ?? String(code), message, detailsOf(metadata?.['grpc-status-details-bin']));
}
