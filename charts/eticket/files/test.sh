# What `helm test` runs: one ticket from its registration to a cancelled reservation, through the gateway. Needs sh, sed, sleep,
# grpcurl.
# GATEWAY is the address, TOKEN an admin's token or empty, PLAIN is 1 without TLS, else CA names the authority's certificate.
set -eu
id="helm-test-$(date +%s)-$$"

call() { # method fields
  if [ "$PLAIN" = 1 ]; then set -- "$@" -plaintext; else set -- "$@" -cacert "$CA"; fi
  if [ -n "$TOKEN" ]; then set -- "$@" -H "authorization: Bearer $TOKEN"; fi
  method=$1 fields=$2
  shift 2
  # A client tries again while the gateway does not reach a service: pods that have just become ready are in DNS seconds later.
  attempt=1
  while :; do
    printed=$(grpcurl "$@" -max-time 20 -d "$fields" "$GATEWAY" "$method" 2>&1 || true)
    case $printed in
      *"Code: Unavailable"*) if [ "$attempt" -ge 20 ]; then break; fi ;;
      *) break ;;
    esac
    attempt=$((attempt + 1))
    sleep 1
  done
  echo "$printed"
}
request_id() { # the field that makes another attempt safe
  read -r uuid < /proc/sys/kernel/random/uuid
  echo "\"request_id\":\"$uuid\""
}
field() { sed -n "s/.*\"$1\": \"\(.*\)\".*/\1/p" | head -n 1; }
expect() { # what answer text...
  what=$1 answer=$2
  shift 2
  for text; do
    case $answer in
      *"$text"*) ;;
      *) echo "FAIL $what: no $text in"; echo "$answer"; exit 1 ;;
    esac
  done
  echo "ok   $what"
}
view() {
  call eticket.query.v1.QueryService/GetTicketView "{\"ticket_id\":\"$id\",\"consistency_token\":\"$1\",\"wait\":\"WAIT_FOR_SETTLED\"}"
}

answer=$(call eticket.ticket.v1.TicketService/RegisterTicket "{$(request_id),\"ticket_id\":\"$id\",\"title\":\"helm test\",\"start_time\":\"2099-01-07T10:00:00Z\",\"end_time\":\"2099-01-07T12:00:00Z\"}")
expect register "$answer" TICKET_STATUS_AVAILABLE
answer=$(view "$(echo "$answer" | field consistencyToken)")
expect "view: priced" "$answer" discountedPrice '"settled": true'

answer=$(call eticket.reservation.v1.ReservationService/ReserveTicket "{$(request_id),\"ticket_id\":\"$id\",\"user_id\":\"helm-test\",\"user_grade\":\"USER_GRADE_VIP\"}")
expect reserve "$answer" RESERVATION_STATUS_RESERVED
reservation=$(echo "$answer" | field reservationId)
answer=$(view "$(echo "$answer" | field consistencyToken)")
expect "view: reserved" "$answer" TICKET_STATUS_RESERVED '"settled": true'

answer=$(call eticket.reservation.v1.ReservationService/CancelReservation "{$(request_id),\"reservation_id\":\"$reservation\"}")
expect cancel "$answer" RESERVATION_STATUS_CANCELLED
answer=$(view "$(echo "$answer" | field consistencyToken)")
expect "view: free again" "$answer" TICKET_STATUS_AVAILABLE '"settled": true'

answer=$(call eticket.ticket.v1.TicketService/WithdrawTicket "{$(request_id),\"ticket_id\":\"$id\"}")
expect withdraw "$answer" TICKET_STATUS_WITHDRAWN
