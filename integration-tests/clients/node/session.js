// Makes the reads of a client include its own commands. Its interceptor keeps the newest consistency token of each ticket and sends the tokens
// with each read. With servers that send no tokens it does nothing.
'use strict';

const { InterceptingCall, status } = require('@grpc/grpc-js');

const HEADER = 'eticket-consistency-token';
const READS = '/eticket.query.v1.QueryService/';
// The most tokens that a server accepts.
const LIMIT = 64;

/** The tokens of one user: `new Service(address, credentials, { interceptors: [session.interceptor] })`. Clients may share it. */
class Session {
  // From ticket to token, the newest last.
  #tokens = new Map();

  /** Stores the token of a command on a ticket. */
  remember(ticketId, token) {
    this.#tokens.delete(ticketId);
    this.#tokens.set(ticketId, token);
    if (this.#tokens.size > LIMIT) {
      this.#tokens.delete(this.#tokens.keys().next().value);
    }
  }

  /** The tokens as the metadata of a read has them; empty without any. */
  get tokens() {
    return [...this.#tokens.values()].join(',');
  }

  interceptor = (options, nextCall) => new InterceptingCall(nextCall(options), {
    start: (metadata, listener, next) => {
      if (this.tokens && options.method_definition.path.startsWith(READS)) {
        metadata.set(HEADER, this.tokens);
      }
      let token;
      let ticketId;
      next(metadata, {
        onReceiveMetadata: (received, forward) => {
          [token] = received.get(HEADER);
          forward(received);
        },
        onReceiveMessage: (message, forward) => {
          ticketId = (message?.ticket ?? message?.reservation)?.ticketId;
          forward(message);
        },
        onReceiveStatus: (ended, forward) => {
          if (ended.code === status.OK && token && ticketId) {
            this.remember(ticketId, token);
          }
          forward(ended);
        },
      });
    },
  });
}

module.exports = { Session };
