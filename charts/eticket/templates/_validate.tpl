{{/* Refuses what cannot work, each with what to do. */}}
{{- define "eticket.validate" -}}
{{- include "eticket.validate.renamed" . -}}
{{- include "eticket.validate.auth" . -}}
{{- include "eticket.validate.backends" . -}}
{{- include "eticket.validate.tls" . -}}
{{- include "eticket.validate.config" . -}}
{{- range splitList " " (include "eticket.components" .) -}}
{{- $component := get $.Values . -}}
{{- with $component.autoscaling -}}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail "autoscaling: minReplicas must not be above maxReplicas" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.enabled needs ingress.hosts: the names by which people reach the gateway" -}}
{{- end -}}
{{- if and .Values.gatewayApi.enabled (not .Values.gatewayApi.parentRefs) -}}
{{- fail "gatewayApi.enabled needs gatewayApi.parentRefs: the Gateways that carry the route" -}}
{{- end -}}
{{- end }}

{{- define "eticket.validate.renamed" -}}
{{- range $old, $new := fromYaml (.Files.Get "files/renamed.yaml") -}}
{{- $found := $.Values -}}
{{- range splitList "." $old -}}
{{- if and (kindIs "map" $found) (hasKey $found .) }}{{ $found = get $found . }}{{ else }}{{ $found = "" }}{{ end -}}
{{- end -}}
{{- if ne (toString $found) "" }}{{ fail (printf "%s is no value of this chart: set %s" $old $new) }}{{ end -}}
{{- end -}}
{{- end }}

{{- define "eticket.validate.auth" -}}
{{- $mode := include "eticket.authMode" . -}}
{{- if eq $mode "" -}}
{{- fail "auth.mode must be given: jwt, or for a first try off together with demo.enabled=true" -}}
{{- end -}}
{{- if and (eq $mode "off") (not .Values.demo.enabled) -}}
{{- fail "auth.mode=off makes everyone who reaches the gateway an admin: it is possible together with demo.enabled=true only" -}}
{{- end -}}
{{- if eq $mode "jwt" -}}
{{- if eq (empty .Values.auth.jwks) (empty .Values.auth.existingConfigMap) -}}
{{- fail "auth.mode=jwt needs the keys that sign tokens: give either auth.jwks (a URL) or auth.existingConfigMap" -}}
{{- end -}}
{{- if or (empty .Values.auth.issuer) (empty .Values.auth.audience) -}}
{{- fail "auth.mode=jwt needs auth.issuer and auth.audience: what tokens must say" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "eticket.validate.backends" -}}
{{- $values := .Values -}}
{{- range list "ticket" "reservation" "pricing" -}}
{{- $own := (get $values .).store.existingSecret -}}
{{- if and $values.demo.enabled (or $own $values.store.existingSecret) -}}
{{- fail "demo.enabled brings a PostgreSQL of its own: leave store.existingSecret empty, or turn the demo off" -}}
{{- end -}}
{{- if not (or $values.demo.enabled $own $values.store.existingSecret) -}}
{{- fail (printf "the PostgreSQL of %s is not given: set store.existingSecret or %s.store.existingSecret to the name of a Secret with its URL, or demo.enabled=true" . .) -}}
{{- end -}}
{{- end -}}
{{- $buses := len (compact (list $values.bus.url $values.bus.existingSecret (ternary "demo" "" $values.demo.enabled))) -}}
{{- if eq $buses 0 -}}
{{- fail "NATS is not given: set bus.url, or bus.existingSecret if the URL has a password, or demo.enabled=true" -}}
{{- else if gt $buses 1 -}}
{{- fail "give one of bus.url, bus.existingSecret and demo.enabled: each says where NATS is" -}}
{{- end -}}
{{- if contains "@" $values.bus.url -}}
{{- fail "bus.url must not have a password or token, which would stand in a ConfigMap: put the URL into a Secret, and its name into bus.existingSecret" -}}
{{- end -}}
{{- if and $values.demo.enabled (ne (int $values.bus.replicas) 1) -}}
{{- fail "bus.replicas: the demo's NATS is a single server; it must be 1" -}}
{{- end -}}
{{- end }}

{{- define "eticket.validate.tls" -}}
{{- with .Values.tls -}}
{{- if and .enabled (eq .certManager.enabled (ne .existingSecret "")) -}}
{{- fail "tls.enabled needs a certificate: give either tls.existingSecret or tls.certManager.enabled" -}}
{{- end -}}
{{- if and .enabled .certManager.enabled (empty .certManager.issuerRef.name) -}}
{{- fail "tls.certManager.enabled needs tls.certManager.issuerRef.name" -}}
{{- end -}}
{{- if and (not .enabled) (or .certManager.enabled .existingSecret) -}}
{{- fail "tls.existingSecret and tls.certManager are for tls.enabled=true only" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Keys that the chart sets itself: another value would not fit the Services, probes and mounts. */}}
{{- define "eticket.validate.config" -}}
{{- $owned := dict "listen" "" "admin" "" "data" "" "tls" "tls.*" "auth" "auth.*" "telemetry" "telemetry.*" "store" "store.existingSecret" "bus.url" "bus.url" "bus.replicas" "bus.replicas" "bus.sync_interval_ms" "bus.syncIntervalMs" "policy.file" "pricing.policy" -}}
{{- range list "ticket" "reservation" "pricing" "query" -}}
{{- $_ := set $owned (printf "upstream.%s.url" .) "" -}}
{{- $_ := set $owned (printf "upstream.%s.tls" .) "tls.*" -}}
{{- end -}}
{{- range $component := splitList " " (include "eticket.components" .) -}}
{{- range $key, $value := $owned -}}
{{- $found := get $.Values.config $component -}}
{{- range splitList "." $key -}}
{{- if and (kindIs "map" $found) (hasKey $found .) }}{{ $found = get $found . }}{{ else }}{{ $found = "" }}{{ end -}}
{{- end -}}
{{- if and (ne (toString $found) "") (not (kindIs "invalid" $found)) -}}
{{- fail (printf "config.%s.%s is set by the chart%s" $component $key (ternary (printf ": use the value %s" $value) "" (ne $value ""))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
