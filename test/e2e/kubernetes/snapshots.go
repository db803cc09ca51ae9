package kubernetes

import "strings"

// snapshotController is the cluster's own part of snapshots, which no driver brings: what distributions
// install, in as many words as the laboratory needs.
func snapshotController(image string) string {
	return strings.ReplaceAll(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: snapshot-controller, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: snapshot-controller}
rules:
  - {apiGroups: [""], resources: [persistentvolumes], verbs: [get, list, watch]}
  - {apiGroups: [""], resources: [persistentvolumeclaims], verbs: [get, list, watch, update]}
  - {apiGroups: [""], resources: [events], verbs: [list, watch, create, update, patch]}
  - {apiGroups: [storage.k8s.io], resources: [storageclasses], verbs: [get, list, watch]}
  - {apiGroups: [snapshot.storage.k8s.io], resources: [volumesnapshotclasses], verbs: [get, list, watch]}
  - {apiGroups: [snapshot.storage.k8s.io], resources: [volumesnapshotcontents, volumesnapshots], verbs: [create, get, list, watch, update, patch, delete]}
  - {apiGroups: [snapshot.storage.k8s.io], resources: [volumesnapshotcontents/status, volumesnapshots/status], verbs: [update, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: snapshot-controller}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: snapshot-controller}
subjects: [{kind: ServiceAccount, name: snapshot-controller, namespace: kube-system}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: snapshot-controller, namespace: kube-system}
spec:
  selector: {matchLabels: {app: snapshot-controller}}
  template:
    metadata: {labels: {app: snapshot-controller}}
    spec:
      serviceAccountName: snapshot-controller
      tolerations: # a lost node takes it along only for a moment
        - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      containers:
        - name: snapshot-controller
          image: IMAGE
          args: [-v=2, --leader-election=false, --feature-gates=CSIVolumeGroupSnapshot=false]
`, "IMAGE", image)
}
