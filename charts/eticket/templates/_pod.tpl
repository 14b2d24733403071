{{/* The pod template of a component; takes (dict "root" . "component" NAME). */}}
{{- define "eticket.pod" -}}
{{- $root := .root -}}
{{- $values := $root.Values -}}
{{- $own := get $values .component -}}
{{- $fullname := include "eticket.fullname" $root -}}
metadata:
  labels:
    {{- toYaml (merge (fromYaml (include "eticket.podLabels" .)) (dict "eticket/metrics" "true") $own.podLabels) | nindent 4 }}
  annotations:
    # Of the file's content alone: a change of settings rolls the pods, one of labels or annotations does not.
    checksum/config: {{ include "eticket.settings" . | sha256sum | quote }}
    {{- with $own.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- if $values.serviceAccount.create }}
  serviceAccountName: {{ $fullname }}-{{ .component }}
  {{- end }}
  {{- include "eticket.podSecurity" (dict "user" 10001) | nindent 2 }}
  {{- include "eticket.pullSecrets" $root | indent 2 }}
  {{- with $own.priorityClassName | default (ternary (include "eticket.priorityClass" $root) "" $values.priorityClass.create) }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- /*
  On SIGTERM a server says that it is not ready, goes on for shutdown.drain_delay_ms (so no preStop hook has to wait for balancers),
  then drains, and cuts what is left at shutdown.hard_cap_ms. The kubelet kills 5 s after that.
  */}}
  terminationGracePeriodSeconds: {{ include "eticket.gracePeriod" . }}
  {{- with $own.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $own.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $own.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- with $own.topologySpreadConstraints }}
    {{- toYaml . | nindent 4 }}
    {{- else }}
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "eticket.selectorLabels" $ | nindent 10 }}
    {{- end }}
    {{- end }}
  containers:
    - name: {{ .component }}
      image: {{ include "eticket.image" (dict "root" $root "image" $values.image) }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      command: [eticket-{{ .component }}]
      args: [--config, /etc/eticket/config/eticket.toml]
      {{- with include "eticket.environment" . | trim }}
      env:
        {{- . | nindent 8 }}
      {{- end }}
      ports:
        - name: grpc
          containerPort: {{ include "eticket.port" .component }}
        - name: admin
          containerPort: 9090
      {{- include "eticket.probes" . | nindent 6 }}
      resources:
        {{- toYaml $own.resources | nindent 8 }}
      {{- include "eticket.containerSecurity" . | nindent 6 }}
      volumeMounts:
        - name: config
          mountPath: /etc/eticket/config
          readOnly: true
        {{- if ne .component "gateway" }}
        - name: data
          mountPath: /data
        {{- end }}
        {{- if eq .component "pricing" }}
        # The whole folder: a file mounted by subPath would never change.
        - name: policy
          mountPath: /etc/eticket/policy
          readOnly: true
        {{- end }}
        {{- if $values.auth.existingConfigMap }}
        - name: jwks
          mountPath: /etc/eticket/jwks
          readOnly: true
        {{- end }}
        {{- if $values.tls.enabled }}
        - name: tls
          mountPath: /etc/eticket/tls
          readOnly: true
        {{- end }}
        {{- with $own.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ $fullname }}-{{ .component }}
    {{- if or (has .component (list "ticket" "reservation" "pricing")) (and (eq .component "query") (not $own.persistence.enabled)) }}
    - name: data
      emptyDir: {}
    {{- end }}
    {{- if eq .component "pricing" }}
    - name: policy
      configMap:
        name: {{ $fullname }}-pricing-policy
    {{- end }}
    {{- with $values.auth.existingConfigMap }}
    - name: jwks
      configMap:
        name: {{ . | quote }}
    {{- end }}
    {{- if $values.tls.enabled }}
    - name: tls
      secret:
        secretName: {{ include "eticket.tlsSecret" $root | quote }}
        defaultMode: 0440
    {{- end }}
    {{- with $own.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "eticket.priorityClass" -}}
{{- printf "%s-%s" .Release.Namespace (include "eticket.fullname" .) -}}
{{- end }}

{{- define "eticket.gracePeriod" -}}
{{- $shutdown := (get .root.Values.config .component).shutdown | default dict -}}
{{- add 5 (ceil (divf (get $shutdown "hard_cap_ms" | default 25000) 1000)) -}}
{{- end }}

{{/*
gRPC probes ask two health services: liveness (the process turns) and readiness (the store answers, and it is not draining). The
kubelet's gRPC probe knows no TLS, so with tls.enabled the same is asked on the admin port.
*/}}
{{- define "eticket.probes" -}}
{{- $port := include "eticket.port" .component -}}
{{- $tls := .root.Values.tls.enabled -}}
startupProbe:
  {{- include "eticket.probe" (dict "tls" $tls "port" $port "service" "liveness" "path" "/livez") | nindent 2 }}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 45
livenessProbe:
  {{- include "eticket.probe" (dict "tls" $tls "port" $port "service" "liveness" "path" "/livez") | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
  # A process that does not answer cannot drain: it is killed sooner than one that is told to end.
  terminationGracePeriodSeconds: 5
readinessProbe:
  {{- include "eticket.probe" (dict "tls" $tls "port" $port "service" "readiness" "path" "/readyz") | nindent 2 }}
  periodSeconds: 3
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{- define "eticket.probe" -}}
{{- if .tls -}}
httpGet:
  path: {{ .path }}
  port: admin
{{- else -}}
grpc:
  port: {{ .port }}
  service: {{ .service }}
{{- end -}}
{{- end }}

{{/* Secrets come by the environment, never through a ConfigMap. */}}
{{- define "eticket.environment" -}}
{{- $values := .root.Values -}}
{{- $own := get $values .component -}}
{{- if eq .component "query" }}
# The root file system is read-only; SQLite wants a place for what does not fit into memory.
- name: TMPDIR
  value: /data
{{- end }}
{{- if has .component (list "ticket" "reservation" "pricing") }}
- name: ETICKET__STORE__URL
  {{- if $values.demo.enabled }}
  value: postgres://eticket@{{ include "eticket.fullname" .root }}-postgresql:5432/eticket
  {{- else }}
  valueFrom:
    secretKeyRef:
      {{- $from := ternary $own.store $values.store (ne $own.store.existingSecret "") }}
      name: {{ $from.existingSecret | quote }}
      key: {{ $from.key | quote }}
  {{- end }}
{{- end }}
{{- if and (ne .component "gateway") $values.bus.existingSecret }}
- name: ETICKET__BUS__URL
  valueFrom:
    secretKeyRef:
      name: {{ $values.bus.existingSecret | quote }}
      key: {{ $values.bus.key | quote }}
{{- end }}
{{- with $own.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
A claim template named data. Its labels are those of the selector: Kubernetes refuses a change of them, as a new version would be.
*/}}
{{- define "eticket.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: data
  labels:
    {{- include "eticket.selectorLabels" .scope | nindent 4 }}
spec:
  accessModes: [ReadWriteOnce]
  {{- with .class }}
  storageClassName: {{ . | quote }}
  {{- end }}
  resources:
    requests:
      storage: {{ .size | quote }}
{{- end }}
