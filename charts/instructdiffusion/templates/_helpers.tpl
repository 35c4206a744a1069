{{/* What the names of all objects begin with. */}}
{{- define "instructdiffusion.name" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* What selects the pods of a component, for good. Takes (list . "component"). */}}
{{- define "instructdiffusion.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: instructdiffusion
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of an object. Takes (list . "component"). */}}
{{- define "instructdiffusion.labels" -}}
{{- $root := index . 0 -}}
{{ include "instructdiffusion.selector" . }}
app.kubernetes.io/part-of: instructdiffusion
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version }}
{{- end -}}

{{/* Image of our own. Takes (list . "step"). */}}
{{- define "instructdiffusion.image" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.images.registry }}{{ . }}/{{ end -}}
instructdiffusion-{{ index . 1 }}:{{ default $root.Chart.AppVersion $root.Values.images.tag }}
{{- end -}}

{{- define "instructdiffusion.trainImage" -}}
{{- default (include "instructdiffusion.image" (list . "train")) .Values.training.image -}}
{{- end -}}

{{/* The volume that trainings and the steps around them share. */}}
{{- define "instructdiffusion.claim" -}}
{{- default (printf "%s-work" (include "instructdiffusion.name" .)) .Values.training.workspace.existingClaim -}}
{{- end -}}

{{/* What every pod of ours has in common. Takes (list . uid). */}}
{{- define "instructdiffusion.pod" -}}
{{- $root := index . 0 -}}
{{- $uid := index . 1 -}}
enableServiceLinks: false # a Service's variables would be read as settings
securityContext:
  runAsNonRoot: true
  runAsUser: {{ $uid }}
  runAsGroup: {{ $uid }}
  fsGroup: {{ $uid }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- include "instructdiffusion.placement" $root }}
{{- end -}}

{{/* Where a pod runs, and how its images are pulled. */}}
{{- define "instructdiffusion.placement" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Security of a container whose root is read-only. */}}
{{- define "instructdiffusion.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* Names of the Secrets: yours, or the ones that are generated. */}}
{{- define "instructdiffusion.storeSecret" -}}
{{- default (printf "%s-store" (include "instructdiffusion.name" .)) .Values.store.existingSecret -}}
{{- end -}}
{{- define "instructdiffusion.databaseSecret" -}}
{{- default (printf "%s-database" (include "instructdiffusion.name" .)) .Values.database.existingSecret -}}
{{- end -}}
{{- define "instructdiffusion.mlflowSecret" -}}
{{- default (printf "%s-mlflow" (include "instructdiffusion.name" .)) .Values.mlflow.existingSecret -}}
{{- end -}}
{{- define "instructdiffusion.labelStudioSecret" -}}
{{- default (printf "%s-label-studio" (include "instructdiffusion.name" .)) .Values.labelStudio.existingSecret -}}
{{- end -}}

{{/* Host of a Service of ours, as pods of any namespace reach it. Takes (list . "component"). */}}
{{- define "instructdiffusion.host" -}}
{{- $root := index . 0 -}}
{{ include "instructdiffusion.name" $root }}-{{ index . 1 }}.{{ $root.Release.Namespace }}.svc
{{- end -}}

{{/* Addresses: yours, or the chart's own. */}}
{{- define "instructdiffusion.storeEndpoint" -}}
{{- if .Values.store.enabled }}{{ include "instructdiffusion.host" (list . "store") }}:8333
{{- else }}{{ .Values.store.endpoint }}{{ end -}}
{{- end -}}
{{- define "instructdiffusion.storeSecure" -}}
{{- and .Values.store.secure (not .Values.store.enabled) -}}
{{- end -}}
{{- define "instructdiffusion.storeUrl" -}}
{{- if eq (include "instructdiffusion.storeSecure" .) "true" }}https{{ else }}http{{ end -}}
://{{ include "instructdiffusion.storeEndpoint" . }}
{{- end -}}
{{- define "instructdiffusion.databaseHost" -}}
{{- if .Values.database.enabled }}{{ include "instructdiffusion.host" (list . "database") }}
{{- else }}{{ .Values.database.host }}{{ end -}}
{{- end -}}
{{- define "instructdiffusion.databaseTls" -}}
{{- if .Values.database.enabled }}disable{{ else }}{{ .Values.database.sslMode }}{{ end -}}
{{- end -}}
{{- define "instructdiffusion.mlflowUrl" -}}
{{- if .Values.mlflow.enabled }}http://{{ include "instructdiffusion.host" (list . "mlflow") }}:5000
{{- else }}{{ .Values.mlflow.url }}{{ end -}}
{{- end -}}
{{- define "instructdiffusion.labelStudioUrl" -}}
{{- if .Values.labelStudio.enabled }}http://{{ include "instructdiffusion.host" (list . "label-studio") }}:8080
{{- else }}{{ .Values.labelStudio.url }}{{ end -}}
{{- end -}}

{{/* Where people open Label Studio in a browser. Empty: nowhere but at the address above. */}}
{{- define "instructdiffusion.labelStudioPublicUrl" -}}
{{- if and .Values.labelStudio.enabled .Values.labelStudio.host }}https://{{ .Values.labelStudio.host }}{{ end -}}
{{- end -}}

{{/* The store's keys, by the names that S3 clients read. */}}
{{- define "instructdiffusion.storeKeys" -}}
{{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
- name: {{ . }}
  valueFrom: { secretKeyRef: { name: {{ include "instructdiffusion.storeSecret" $ }}, key: {{ . }} } }
{{- end }}
{{- end -}}

{{/* What a container of ours reads its settings from. */}}
{{- define "instructdiffusion.settings" -}}
envFrom:
  - configMapRef: { name: {{ include "instructdiffusion.name" . }}-settings }
env:
  - name: INSTRUCTDIFFUSION_STORE_ACCESS_KEY
    valueFrom: { secretKeyRef: { name: {{ include "instructdiffusion.storeSecret" . }}, key: AWS_ACCESS_KEY_ID } }
  - name: INSTRUCTDIFFUSION_STORE_SECRET_KEY
    valueFrom: { secretKeyRef: { name: {{ include "instructdiffusion.storeSecret" . }}, key: AWS_SECRET_ACCESS_KEY } }
{{- end -}}
