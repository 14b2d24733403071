// The one dialog that is open, whichever page opened it.

export type Dialog =
  | { kind: 'identity' }
  | { kind: 'reserve'; ticketId: string }
  | { kind: 'cancel'; ticketId: string; reservationId: string }
  | { kind: 'edit'; ticketId: string }
  | { kind: 'withdraw'; ticketId: string }
  | { kind: 'withdrawMany'; ticketIds: string[] };

class Dialogs {
  current = $state.raw<Dialog | null>(null);

  open(dialog: Dialog) {
    this.current = dialog;
  }
}

export const dialogs = new Dialogs();
