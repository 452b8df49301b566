{{/* Names, labels and lists that several templates share. */}}

{{- define "operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters, so that every suffix still gives a valid name. */}}
{{- define "operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "operator.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "operator.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/*
The label managed-by is never plugin-server-operator here: that is the mark of
the objects that the operator owns and may change.
*/}}
{{- define "operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: higress
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "operator.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag -}}
{{- if .Values.image.digest -}}
{{- printf "%s:%s@%s" .Values.image.repository $tag .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- end -}}
{{- end -}}

{{- define "operator.higressNamespace" -}}
{{- default .Release.Namespace .Values.higress.namespace -}}
{{- end -}}

{{/* All watched namespaces, as a JSON list. */}}
{{- define "operator.namespaces" -}}
{{- concat (list .Release.Namespace (include "operator.higressNamespace" .)) .Values.watchNamespaces | uniq | toJson -}}
{{- end -}}

{{- define "operator.artifactURL" -}}
{{- printf "http://%s.%s.svc:8082" (include "operator.fullname" .) .Release.Namespace -}}
{{- end -}}

{{/* Where the operator works and whom it may patch; both commands take these. */}}
{{- define "operator.scopeArgs" -}}
- --namespace=$(POD_NAMESPACE)
- --watch-namespaces={{ include "operator.namespaces" . | fromJsonArray | join "," }}
- --higress-namespace={{ include "operator.higressNamespace" . }}
- --console-deployment={{ .Values.higress.console.deployment }}
- --console-container={{ .Values.higress.console.container }}
- --controller-deployment={{ .Values.higress.controller.deployment }}
- --controller-container={{ .Values.higress.controller.container }}
{{- end -}}

{{/* What the restricted Pod Security Standard asks of pods and containers. */}}
{{- define "operator.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "operator.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
