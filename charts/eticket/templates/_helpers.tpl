{{/* The components, in the order in which calls pass them. */}}
{{- define "eticket.components" -}}
gateway reservation ticket pricing query
{{- end }}

{{- define "eticket.port" -}}
{{- get (dict "reservation" 8081 "ticket" 8082 "pricing" 8083 "query" 8084 "gateway" 8088) . -}}
{{- end }}

{{/*
At most 41 characters, so that <fullname>-postgresql is at most 52: Kubernetes labels the pods of a StatefulSet with its name
and a hash of 10. A longer name is cut and ends in a hash of the whole, so that two long names stay apart.
*/}}
{{- define "eticket.fullname" -}}
{{- $name := .Values.fullnameOverride -}}
{{- if not $name -}}
{{- $base := .Values.nameOverride | default .Chart.Name -}}
{{- $name = ternary .Release.Name (printf "%s-%s" .Release.Name $base) (contains $base .Release.Name) -}}
{{- end -}}
{{- if gt (len $name) 41 -}}
{{- printf "%s-%s" ($name | trunc 34 | trimSuffix "-") ($name | sha256sum | trunc 6) -}}
{{- else -}}
{{- $name | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* What a selector may rest on: it cannot be changed later. Takes (dict "root" . "component" NAME). */}}
{{- define "eticket.selectorLabels" -}}
app.kubernetes.io/name: eticket
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "eticket.version" -}}
{{- .Values.image.tag | default .Chart.AppVersion | trunc 63 | trimAll "-_." -}}
{{- end }}

{{/* Labels of pods. Without the chart's version, which would roll all pods with each change of the chart. */}}
{{- define "eticket.podLabels" -}}
{{- $own := fromYaml (include "eticket.selectorLabels" .) -}}
{{- $version := dict "app.kubernetes.io/version" (include "eticket.version" .root) -}}
{{- toYaml (merge $own $version .root.Values.commonLabels) -}}
{{- end }}

{{- define "eticket.labels" -}}
{{ include "eticket.podLabels" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: eticket
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimAll "-_." }}
{{- end }}

{{/* name, namespace and labels; takes also "name", what stands after the fullname if not the component. */}}
{{- define "eticket.metadata" -}}
name: {{ include "eticket.fullname" .root }}-{{ .name | default .component }}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- include "eticket.labels" . | nindent 2 }}
{{- end }}

{{/* Takes (dict "root" . "image" IMAGE). */}}
{{- define "eticket.image" -}}
{{- $repository := .image.repository -}}
{{- with .root.Values.global.imageRegistry }}{{ $repository = printf "%s/%s" (trimSuffix "/" .) $repository }}{{ end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{- define "eticket.pullSecrets" -}}
{{- with concat .Values.imagePullSecrets .Values.global.imagePullSecrets | uniq }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* YAML reads an unquoted off as false. */}}
{{- define "eticket.authMode" -}}
{{- if kindIs "bool" .Values.auth.mode -}}
off
{{- else -}}
{{- .Values.auth.mode -}}
{{- end -}}
{{- end }}

{{/* The restricted profile of Pod Security; takes (dict "user" UID). */}}
{{- define "eticket.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .user }}
  fsGroup: {{ .user }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "eticket.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* Which components call this one. */}}
{{- define "eticket.callers" -}}
{{- get (dict "ticket" "reservation gateway query" "reservation" "gateway query" "pricing" "gateway query" "query" "gateway" "gateway" "") . -}}
{{- end }}

{{/* Which components this one calls. */}}
{{- define "eticket.upstreams" -}}
{{- get (dict "gateway" "ticket reservation pricing query" "reservation" "ticket" "query" "ticket reservation pricing" "ticket" "" "pricing" "") . -}}
{{- end }}

{{- define "eticket.tlsSecret" -}}
{{- ternary (printf "%s-tls" (include "eticket.fullname" .)) .Values.tls.existingSecret .Values.tls.certManager.enabled -}}
{{- end }}
