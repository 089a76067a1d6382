{{- /* Name of at most 63 characters. A longer one ends with a digest of the whole, so that two names never become one. */ -}}
{{- define "cleanroom.short" -}}
{{- if le (len .) 63 }}{{ . }}{{ else }}{{ printf "%s-%s" (trunc 46 . | trimSuffix "-") (sha256sum . | trunc 16) }}{{ end }}
{{- end }}

{{- define "cleanroom.name" -}}
{{ include "cleanroom.short" (printf "%s-%s" .release .boundary) }}
{{- end }}

{{- /* The versions of the workers, the current image first: see docs/guides/upgrades.md. */ -}}
{{- define "cleanroom.versions" -}}
{{- $all := list (dict "buildId" (required "image.buildId is needed: deploy/build.sh prints it" .Values.image.buildId) "digest" .Values.image.digest "config" .Values.config "bootstrap" .Values.bootstrap) }}
{{- range .Values.draining }}
{{- $all = append $all (mergeOverwrite (dict "config" $.Values.config "bootstrap" $.Values.bootstrap) .) }}
{{- end }}
{{- toJson $all }}
{{- end }}

{{- define "cleanroom.config" -}}
{{ include "cleanroom.short" (printf "%s-config-%s" .release .buildId) }}
{{- end }}

{{- define "cleanroom.labels" -}}
app.kubernetes.io/name: cleanroom
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "cleanroom.image" -}}
{{ required "image.repository is needed" .root.Values.image.repository }}@{{ required "image.digest is needed: a tag can be moved, a digest cannot" .digest }}
{{- end }}

{{- /* Every enabled boundary by name: the three of the clean room, and collaborator-NAME for each collaborator. */ -}}
{{- define "cleanroom.boundaries" -}}
{{- $all := dict }}
{{- range $name, $values := .Values.boundaries }}
{{- if $values.enabled }}{{ $_ := set $all $name $values }}{{ end }}
{{- end }}
{{- range $party, $values := .Values.collaborators }}
{{- $own := mergeOverwrite (deepCopy $.Values.boundaries.frontend) (dict "enabled" true "replicas" 1 "profile" $party "secretName" "" "workloadIdentity" false "clientId" "") $values }}
{{- if $own.enabled }}{{ $_ := set $all (printf "collaborator-%s" $party) $own }}{{ end }}
{{- end }}
{{- toJson $all }}
{{- end }}

{{- define "cleanroom.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
# Otherwise every start makes the keys on a collaborator's volume group-readable, and the worker refuses such keys.
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "cleanroom.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "cleanroom.environment" -}}
- {name: CLEANROOM_CONFIG, value: /etc/cleanroom/cleanroom.toml}
- {name: TEMPORAL_ADDRESS, value: {{ required "temporal.address is needed" .Values.temporal.address | quote }}}
- {name: TEMPORAL_NAMESPACE, value: {{ .Values.temporal.namespace | quote }}}
{{- range $name, $value := .Values.temporal.environment }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- with .Values.tracing.endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- range $name, $value := .Values.tracing.environment }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- /* Copy the Secret's files into memory with mode 0400. For a process that is not root, Kubernetes mounts them with mode 0440 (fsGroup),
       and workers refuse secrets that a group can read. */ -}}
{{- define "cleanroom.secretCopy" -}}
- name: secrets
  image: {{ include "cleanroom.image" (dict "root" .root "digest" .digest) | quote }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  command: [/bin/sh, -euc, "umask 077; for file in /secret/*; do cp -L \"$file\" /run/cleanroom/; done; chmod 0400 /run/cleanroom/*"]
  resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
  securityContext: {{- include "cleanroom.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - {name: secret, mountPath: /secret, readOnly: true}
    - {name: run, mountPath: /run/cleanroom}
{{- end }}

{{- define "cleanroom.selector" -}}
app.kubernetes.io/name: cleanroom
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .boundary }}
{{- if .buildId }}
cleanroom/build-id: {{ .buildId | quote }}
{{- end }}
{{- end }}
