# For workers on EC2: attach this profile to the instances. boto3 finds the role, so the backend needs no setting.

data "aws_iam_policy_document" "ec2_trust" {
  statement {
    sid     = "LetInstancesIn"
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "ec2_worker" {
  name               = "airflow-worker"
  assume_role_policy = data.aws_iam_policy_document.ec2_trust.json
}

resource "aws_iam_role_policy_attachment" "ec2_worker_pull" {
  role       = aws_iam_role.ec2_worker.name
  policy_arn = aws_iam_policy.pull.arn
}

resource "aws_iam_instance_profile" "ec2_worker" {
  name = "airflow-worker"
  role = aws_iam_role.ec2_worker.name
}

output "ec2_instance_profile" {
  description = "The iam_instance_profile of the workers' instances"
  value       = aws_iam_instance_profile.ec2_worker.name
}
