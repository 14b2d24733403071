/** The libraries and their modes. */
export const NAMES = ['connect-web gRPC-Web', 'connect-web Connect', 'grpc-web binary', 'grpc-web text'] as const;
export type Name = (typeof NAMES)[number];
