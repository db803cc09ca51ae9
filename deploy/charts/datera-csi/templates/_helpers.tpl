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

{{- /* With a startup taint, the plugin must get to where it is: who bears only some taints bears this one. */}}
{{- define "datera-csi.nodeTolerations" -}}
{{- $all := .Values.node.tolerations | default list }}
{{- if and .Values.node.startupTaint (not (has (dict "operator" "Exists") $all)) }}
{{- $all = append $all (dict "key" "dsp.csi.daterainc.io/starting" "operator" "Exists") }}
{{- end }}
{{- toYaml $all }}
{{- end }}

{{- /* topology.kubernetes.io/zone is the variable ZONE. The schema takes no two keys that would share one. */}}
{{- define "datera-csi.variable" -}}
{{ regexReplaceAll "[^A-Z0-9]" (base . | upper) "_" }}
{{- end }}

{{- /* Ports of the endpoints and proxies that the values name, besides those that the policy has anyway. */}}
{{- define "datera-csi.backendPorts" -}}
{{- $ports := list }}
{{- range .Values.backends }}
{{- with .endpoint }}
{{- $ports = append $ports (trimPrefix ":" (regexFind ":[0-9]+$" (urlParse .).host)) }}
{{- end }}
{{- with .proxy }}
{{- $proxy := urlParse . }}
{{- $ports = append $ports (trimPrefix ":" (regexFind ":[0-9]+$" $proxy.host) | default (ternary "443" "80" (eq $proxy.scheme "https"))) }}
{{- end }}
{{- end }}
{{- range without (uniq $ports) "" "443" "6443" "7717" "7718" }}
- port: {{ . }}
  protocol: TCP
{{- end }}
{{- end }}

{{- /* networkPolicyPorts: of the API or a proxy by TCP, of DNS by UDP, too */}}
{{- define "datera-csi.morePorts" -}}
{{- range .Values.networkPolicyPorts }}
- port: {{ . }}
  protocol: TCP
- port: {{ . }}
  protocol: UDP
{{- end }}
{{- end }}
