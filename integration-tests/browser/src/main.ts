// The page. The tests call it by `window.eticket`, with messages as JSON.

import { fromJson, toJson, type DescMethod, type DescMethodUnary, type DescService, type JsonValue } from '@bufbuild/protobuf';
import { createConnectTransport, createGrpcWebTransport } from '@connectrpc/connect-web';

import { Failure, type Client, type Options } from './client';
import { Connect } from './connect';
import { QueryService } from './gen/eticket/query/v1/query_pb';
import { ReservationService } from './gen/eticket/reservation/v1/reservation_pb';
import { TicketService } from './gen/eticket/ticket/v1/ticket_pb';
import { Google } from './google';
import type { Name } from './names';
import { Watch } from './watch';

const SERVICES: DescService[] = [QueryService, ReservationService, TicketService];

export interface Outcome {
  message?: JsonValue;
  headers?: Record<string, string>;
  failure?: Pick<Failure, 'code' | 'message' | 'reason' | 'metadata' | 'text'>;
}

export class Eticket {
  readonly #client: Client;
  readonly #calls = new AbortController();
  #watch?: Watch;

  constructor(name: Name, gateway: string) {
    this.#client = client(name, gateway);
  }

  /** Makes a call such as `eticket.ticket.v1.TicketService/GetTicket`. */
  async call(path: string, request: object, options: Omit<Options, 'signal'>): Promise<Outcome> {
    const [typeName, name] = path.split('/');
    const methods = SERVICES.filter((service) => service.typeName === typeName).flatMap((service) => service.methods);
    const method = methods.filter(isUnary).find((method) => method.name === name);
    if (!method) throw new Error(`there is no unary method ${path}`);
    try {
      const { message, headers } = await this.#client.unary(method, fromJson(method.input, request as JsonValue), { ...options, signal: this.#calls.signal });
      return { message: toJson(method.output, message), headers };
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      const { code, message, reason, metadata, text } = error;
      return { failure: { code, message, reason, metadata, text } };
    }
  }

  /** Cancels all calls of this object. */
  cancel() {
    this.#calls.abort();
  }

  watch(ticketIds: string[]) {
    this.#watch = new Watch(this.#client, ticketIds);
    void this.#watch.run();
  }

  get watching(): Watch {
    if (!this.#watch) throw new Error('nothing is watched');
    return this.#watch;
  }
}

function isUnary(method: DescMethod): method is DescMethodUnary {
  return method.methodKind === 'unary';
}

function client(name: Name, baseUrl: string): Client {
  switch (name) {
    case 'connect-web gRPC-Web':
      return new Connect(createGrpcWebTransport({ baseUrl }));
    case 'connect-web Connect':
      // Reads then use GET.
      return new Connect(createConnectTransport({ baseUrl, useBinaryFormat: true, useHttpGet: true }));
    case 'grpc-web binary':
      return new Google(baseUrl, 'binary');
    case 'grpc-web text':
      return new Google(baseUrl, 'text');
  }
}

declare global {
  interface Window {
    use: (name: Name, gateway: string) => void;
    eticket: Eticket;
  }
}

window.use = (name, gateway) => {
  window.eticket = new Eticket(name, gateway);
};
