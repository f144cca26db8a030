# For workers on EKS, with a role for their service account (IRSA). Annotate the account with this role, as
# examples/helm/values.yaml does. Without a cluster, omit this file.

variable "oidc_provider_arn" {
  description = "The cluster's OIDC provider in IAM"
  type        = string
  default     = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.us-east-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE"
}

variable "service_accounts" {
  description = "The accounts of pods that request tokens, as NAMESPACE:NAME"
  type        = list(string)
  default     = ["airflow:airflow-worker", "airflow:airflow-triggerer"]
}

locals {
  issuer = split("oidc-provider/", var.oidc_provider_arn)[1]
}

data "aws_iam_policy_document" "eks_trust" {
  statement {
    sid     = "LetPodsIn"
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }

    # Without this condition, each pod of the cluster could use the role.
    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:sub"
      values   = [for name in var.service_accounts : "system:serviceaccount:${name}"]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "eks_worker" {
  name               = "airflow-worker-eks"
  assume_role_policy = data.aws_iam_policy_document.eks_trust.json
}

resource "aws_iam_role_policy_attachment" "eks_worker_pull" {
  role       = aws_iam_role.eks_worker.name
  policy_arn = aws_iam_policy.pull.arn
}

output "eks_role_arn" {
  description = "For the annotation eks.amazonaws.com/role-arn"
  value       = aws_iam_role.eks_worker.arn
}
