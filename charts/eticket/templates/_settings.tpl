{{/*
The configuration file of a component: what the chart sets, and config.<component>. Takes (dict "root" . "component" NAME).
*/}}
{{- define "eticket.settings" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $keeps := ne .component "gateway" -}}
{{- $tree := dict
  "listen" (printf "0.0.0.0:%s" (include "eticket.port" .component))
  "admin" (dict "listen" "0.0.0.0:9090")
  "log" (dict "format" "json") -}}
{{- $mode := include "eticket.authMode" $root -}}
{{- if eq $mode "jwt" -}}
{{- $auth := dict "mode" "jwt" "issuer" $values.auth.issuer "audience" $values.auth.audience -}}
{{- $_ := set $auth "anonymous_reads" $values.auth.anonymousReads -}}
{{- $_ := set $auth "jwks" (ternary (printf "/etc/eticket/jwks/%s" $values.auth.key) $values.auth.jwks (ne $values.auth.existingConfigMap "")) -}}
{{- $_ := set $tree "auth" $auth -}}
{{- else -}}
{{- $_ := set $tree "auth" (dict "mode" "off" "allow_off_anywhere" true) -}}
{{- end -}}
{{- if $keeps -}}
{{- $_ := set $tree "data" "/data" -}}
{{- $bus := dict "replicas" $values.bus.replicas -}}
{{- $interval := ternary 1000 (int $values.bus.syncIntervalMs) $values.demo.enabled -}}
{{- if $interval }}{{ $_ := set $bus "sync_interval_ms" $interval }}{{ end -}}
{{- if $values.demo.enabled -}}
{{- $_ := set $bus "url" (printf "nats://%s-nats:4222" (include "eticket.fullname" $root)) -}}
{{- else if $values.bus.url -}}
{{- $_ := set $bus "url" $values.bus.url -}}
{{- end -}}
{{- $_ := set $tree "bus" $bus -}}
{{- end -}}
{{- if eq .component "pricing" -}}
{{- $_ := set $tree "policy" (dict "file" "/etc/eticket/policy/policy.yaml") -}}
{{- end -}}
{{- $files := dict "cert_file" "/etc/eticket/tls/tls.crt" "key_file" "/etc/eticket/tls/tls.key" -}}
{{- if $values.tls.enabled -}}
{{- $tls := deepCopy $files -}}
{{- if $keeps }}{{ $_ := set $tls "client_ca_file" "/etc/eticket/tls/ca.crt" }}{{ end -}}
{{- $_ := set $tree "tls" $tls -}}
{{- end -}}
{{- $upstreams := dict -}}
{{- range splitList " " (include "eticket.upstreams" .component) | compact -}}
{{- $scheme := ternary "https" "http" $values.tls.enabled -}}
{{- $upstream := dict "url" (printf "%s://%s-%s:%s" $scheme (include "eticket.fullname" $root) . (include "eticket.port" .)) -}}
{{- if $values.tls.enabled }}{{ $_ := set $upstream "tls" (set (deepCopy $files) "ca_file" "/etc/eticket/tls/ca.crt") }}{{ end -}}
{{- $_ := set $upstreams . $upstream -}}
{{- end -}}
{{- if $upstreams }}{{ $_ := set $tree "upstream" $upstreams }}{{ end -}}
{{- if $values.telemetry.otlpEndpoint -}}
{{- $_ := set $tree "telemetry" (dict "otlp_endpoint" $values.telemetry.otlpEndpoint "sample_ratio" $values.telemetry.sampleRatio) -}}
{{- end -}}
{{- include "eticket.toml" (dict "path" "" "tree" (mergeOverwrite $tree (deepCopy (get $values.config .component)))) | trim -}}
{{- end }}

{{/*
A tree as TOML, one line a key with its whole path, in the order of keys. Helm's toToml writes whole numbers as 1000.0, which the
servers refuse. Lists are comma-separated texts, as the configuration has them.
*/}}
{{- define "eticket.toml" -}}
{{- $path := .path -}}
{{- range $key, $value := .tree }}
{{- $here := ternary $key (printf "%s.%s" $path $key) (eq $path "") -}}
{{- if kindIs "map" $value -}}
{{- include "eticket.toml" (dict "path" $here "tree" $value) -}}
{{- else if kindIs "slice" $value }}
{{ $here }} = {{ join "," $value | toJson }}
{{- else if kindIs "float64" $value }}
{{ $here }} = {{ if eq $value (floor $value) }}{{ int64 $value }}{{ else }}{{ toJson $value }}{{ end }}
{{- else if not (kindIs "invalid" $value) }}
{{ $here }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- end }}
