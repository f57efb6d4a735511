{{- /* What all objects have below their name and namespace, by the component that they belong to. */ -}}
{{- define "conduit.controller" }}
  labels:
    conduit.io/control-plane-component: controller
    conduit.io/control-plane-ns: {{ .Release.Namespace }}
  annotations:
    conduit.io/created-by: conduit/cli {{ .Values.conduitVersion }}
{{- end }}
{{- define "conduit.prometheus" }}
  labels:
    conduit.io/control-plane-component: prometheus
    conduit.io/control-plane-ns: {{ .Release.Namespace }}
  annotations:
    conduit.io/created-by: conduit/cli {{ .Values.conduitVersion }}
{{- end }}
{{- define "conduit.cni" }}
  labels:
    conduit.io/control-plane-component: cni
    conduit.io/control-plane-ns: {{ .Release.Namespace }}
  annotations:
    conduit.io/created-by: conduit/cli {{ .Values.conduitVersion }}
{{- end }}
{{- define "conduit.grafana" }}
  labels:
    conduit.io/control-plane-component: grafana
    conduit.io/control-plane-ns: {{ .Release.Namespace }}
  annotations:
    conduit.io/created-by: conduit/cli {{ .Values.conduitVersion }}
{{- end }}
