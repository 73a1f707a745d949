{{/* Labels of everything. */}}
{{- define "balancing.labels" -}}
app.kubernetes.io/name: balancing
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* metadata's labels and annotations of an object without annotations of its own. */}}
{{- define "balancing.metadata" -}}
labels:
  {{- include "balancing.labels" . | nindent 2 }}
{{- with .Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Labels of pods. No version is among them: a chart that changes nothing else starts no pod anew. */}}
{{- define "balancing.podLabels" -}}
app.kubernetes.io/name: balancing
app.kubernetes.io/instance: {{ .Release.Name }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What selects the pods of a component; it never changes. */}}
{{- define "balancing.selector" -}}
app.kubernetes.io/name: balancing
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* Reference of an image: (list $ "agent"). A digest goes before the tag. */}}
{{- define "balancing.image" -}}
{{- $root := index . 0 -}}
{{- $image := index $root.Values.image (index . 1) -}}
{{- with $root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* Names as the API server knows the accounts. */}}
{{- define "balancing.agentUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:balancing-agent
{{- end }}
{{- define "balancing.operatorUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:balancing-operator
{{- end }}

{{/* Names of cluster-wide objects that every release would share. */}}
{{- define "balancing.webhookName" -}}balancing-operator{{- end }}
