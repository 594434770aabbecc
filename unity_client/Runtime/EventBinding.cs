using System;
using System.Collections.Generic;
using UnityEngine;

namespace Everscene
{
    /// <summary>What makes a binding send.</summary>
    public enum EventTrigger
    {
        /// <summary>Only when a UnityEvent or a script calls Send.</summary>
        Call,
        Enabled,
        Disabled,
        TriggerEnter,
        TriggerExit,
        CollisionEnter,
        AnimatorState,
        /// <summary>A number given to SetValue.</summary>
        Value,
    }

    /// <summary>One parameter of a binding.</summary>
    [Serializable]
    public sealed class BindingParam
    {
        public string name = "";
        public ParamKind kind = ParamKind.Number;
        public float number;
        public bool flag;
        public string text = "";

        public EventParam ToEventParam()
        {
            if (kind == ParamKind.Number) return new EventParam(name, number);
            return kind == ParamKind.Flag ? new EventParam(name, flag) : new EventParam(name, text);
        }
    }

    /// <summary>When to send which event, with what.</summary>
    [Serializable]
    public sealed class EventBinding
    {
        const float SettleSeconds = 0.5f;

        [Tooltip("What makes it send.")]
        public EventTrigger trigger = EventTrigger.Call;
        [Tooltip("Name of an event of the scene.")]
        public string eventName = "";
        [Tooltip("Default: as the scene says.")]
        public When when = When.Default;
        [Tooltip("What is not here takes the scene's default.")]
        public List<BindingParam> parameters = new List<BindingParam>();
        [Tooltip("Seconds that must pass before it sends again."), Min(0)]
        public float rest;
        [Tooltip("Triggers and collisions: only things with this tag. Empty: all.")]
        public string otherTag = "";
        [Tooltip("Animator state: whose.")]
        public Animator animator;
        public int animatorLayer;
        [Tooltip("Animator state: its name, without the layer's.")]
        public string animatorState = "";
        [Tooltip("Value: the param that gets the number.")]
        public string valueParam = "";
        [Tooltip("Value: how far it must move before it is sent again."), Min(0)]
        public float valueStep = 0.05f;

        [NonSerialized] int stateHash;
        [NonSerialized] bool wasInState;
        [NonSerialized] float value = float.NaN;
        [NonSerialized] float valueSent = float.NaN;
        [NonSerialized] float movedAt;
        [NonSerialized] float sentAt = float.NegativeInfinity;

        internal void Prepare()
        {
            stateHash = Animator.StringToHash(animatorState);
            wasInState = false;
            sentAt = float.NegativeInfinity;
            valueSent = float.NaN;
        }

        internal bool IsRested(float now) => now - sentAt >= rest;

        internal void MarkSent(float now)
        {
            sentAt = now;
            valueSent = value;
        }

        internal void SetValue(float next, float now)
        {
            if (next == value) return;
            value = next;
            movedAt = now;
        }

        internal bool HasValueToSend(float now)
        {
            if (float.IsNaN(value) || !IsRested(now)) return false;
            if (float.IsNaN(valueSent)) return true;
            bool isFar = Mathf.Abs(value - valueSent) >= Mathf.Max(valueStep, 1e-6f);
            return isFar || value != valueSent && now - movedAt >= SettleSeconds;
        }

        // True once for each time that the state is entered.
        internal bool HasEnteredState()
        {
            if (animator == null || !animator.isActiveAndEnabled) return false;
            bool isInState = animator.GetCurrentAnimatorStateInfo(animatorLayer).shortNameHash == stateHash;
            bool entered = isInState && !wasInState;
            wasInState = isInState;
            return entered;
        }

        internal EventParam[] MakeParams()
        {
            bool withValue = trigger == EventTrigger.Value && valueParam.Length > 0 && !float.IsNaN(value);
            var values = new EventParam[parameters.Count + (withValue ? 1 : 0)];
            for (int i = 0; i < parameters.Count; i++) values[i] = parameters[i].ToEventParam();
            if (withValue) values[parameters.Count] = new EventParam(valueParam, value);
            return values;
        }
    }
}
