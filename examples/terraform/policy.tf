# The policy of Airflow's workers: request tokens, and pull from some repositories.

terraform {
  required_version = ">= 1.3"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "repository_arns" {
  description = "The repositories to pull from. In China, they begin with arn:aws-cn, in GovCloud with arn:aws-us-gov."
  type        = list(string)
  default     = ["arn:aws:ecr:us-east-1:123456789012:repository/airflow/*"]
}

data "aws_iam_policy_document" "pull" {
  statement {
    sid       = "RequestToken"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"] # this action has no other resource
  }

  # Add no right to push: every task that gets the connection would have it.
  statement {
    sid       = "Pull"
    actions   = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    resources = var.repository_arns
  }
}

resource "aws_iam_policy" "pull" {
  name        = "airflow-pull-images"
  description = "Request ECR tokens, and pull with them"
  policy      = data.aws_iam_policy_document.pull.json
}
