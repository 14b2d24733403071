import { ReservationStatus, UserGrade } from '../gen/eticket/reservation/v1/reservation_pb';
import { TicketStatus } from '../gen/eticket/ticket/v1/ticket_pb';
import { preferences } from '../lib/preferences.svelte';
import { en, type Text } from './en';
import { ko } from './ko';

/** The texts of the chosen language. */
class I18n {
  readonly text = $derived<Text>(preferences.language === 'ko' ? ko : en);

  // A newer server may send values that this page does not know: show their number.
  ticketStatus(status: TicketStatus): string {
    return this.text.ticketStatus[TicketStatus[status] as keyof Text['ticketStatus']] ?? String(status);
  }

  ticketStatusClass(status: TicketStatus): string {
    return TicketStatus[status]?.toLowerCase() ?? '';
  }

  reservationStatus(status: ReservationStatus): string {
    return this.text.reservationStatus[ReservationStatus[status] as keyof Text['reservationStatus']] ?? String(status);
  }

  grade(grade: UserGrade): string {
    return this.text.grades[UserGrade[grade] as keyof Text['grades']] ?? String(grade);
  }
}

export const i18n = new I18n();
