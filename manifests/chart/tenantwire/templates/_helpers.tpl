{{- /* Labels below those that an object has. */}}
{{- define "tenantwire.moreLabels" }}
{{- with .Values.commonLabels }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end }}

{{- /* Labels of an object that has none. */}}
{{- define "tenantwire.labels" }}
{{- with .Values.commonLabels }}
  labels: {{- toYaml . | nindent 4 }}
{{- end }}
{{- end }}

{{- /* The image of a program: (list $ "operator"). */}}
{{- define "tenantwire.image" }}
{{- $root := index . 0 }}{{ $program := index . 1 }}
{{- $image := $root.Values.image }}
{{- with index $image $program }}{{ . }}{{ else }}{{ $image.registry }}/{{ $program }}:{{ $image.tag | default $root.Chart.AppVersion }}
{{- if not $image.tag }}{{ with index ($image.digests | default dict) $program }}@{{ . }}{{ end }}{{ end }}
{{- end }}
{{- end }}

{{- /* Flags that are not the operator's defaults. */}}
{{- define "tenantwire.args" }}
{{- with .Values }}
{{- if ne .certificates.source "rotated" }}
        - --cert-source={{ .certificates.source }}
{{- end }}
{{- if ne .podSecurityDefault "privileged" }}
        - --pod-security-default={{ .podSecurityDefault }}
{{- end }}
{{- with .tunResource }}
        - --tun-resource={{ . }}
{{- end }}
{{- if .tunForAuto }}
        - --tun-for-auto
{{- end }}
{{- if ne .userNamespaces "Auto" }}
        - --user-namespaces={{ .userNamespaces }}
{{- end }}
{{- if ne .logLevel "info" }}
        - --log-level={{ .logLevel }}
{{- end }}
{{- if ne (.logFormat | default "json") "json" }}
        - --log-format={{ .logFormat }}
{{- end }}
{{- with .otlpEndpoint }}
        - --otlp-endpoint={{ . }}
{{- end }}
{{- end }}
{{- end }}
