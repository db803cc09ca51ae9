{{- define "datera-csi.labels" -}}
app.kubernetes.io/name: datera-csi
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "datera-csi.image" -}}
image: {{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end }}

{{- define "datera-csi.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* topology.kubernetes.io/zone is the variable ZONE. The schema takes no two keys that would share one. */}}
{{- define "datera-csi.variable" -}}
{{ regexReplaceAll "[^A-Z0-9]" (base . | upper) "_" }}
{{- end }}
